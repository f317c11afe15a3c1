"""Sampling noise that depends on the image and a seed only, so that a feature does not depend on the batch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fastreid.modeling.diffusion.option_error import OptionError
from fastreid.utils import comm
from fastreid.utils.suggest import explain_choice


class NoiseSource:
    """Noise for every image, view and draw of a batch.

    Args:
        kind: "shared" (one draw per view for all images), "image" (seeded by the pixels of the image), "name" (seeded
            by its file name), "zeros", or "fresh" (a running generator, as released: depends on batch and order, B10).
        seed: seed of the noise.
        shape: shape of one draw, [4, h, w].

    Raises:
        OptionError: unknown kind.
    """

    def __init__(self, kind: str, seed: int, shape: tuple[int, ...]) -> None:
        kinds = {
            "shared": self._shared,
            "image": self._by_image,
            "name": self._by_name,
            "zeros": self._zeros,
            "fresh": self._fresh,
        }
        if kind not in kinds:
            raise OptionError(explain_choice("noise kind", kind, kinds), "noise kind")
        self._draw: Callable[[Mapping[str, Any], int, int], Tensor] = kinds[kind]
        self.kind, self.seed, self.shape = kind, seed, shape
        self._running = torch.Generator().manual_seed(seed + comm.get_rank())
        self._shared_draws: dict[tuple[int, int], Tensor] = {}

    @property
    def is_constant(self) -> bool:
        """Whether every image has the same noise."""
        return self.kind in ("shared", "zeros")

    def draw(self, batch: Mapping[str, Any], rows: int, steps: int) -> Tensor:
        """Draw noise for a batch, on the CPU.

        Args:
            batch: with `images`, and `img_paths` for the kind "name".
            rows: views times draws per image.
            steps: noise tensors per row.

        Returns:
            Noise [steps, B, rows, 4, h, w].
        """
        return self._draw(batch, rows, steps)

    def _seeded(self, key: str, rows: int, steps: int) -> Tensor:
        """[steps, rows, …]; row r does not depend on the number of rows."""
        return torch.stack([self._row(f"{self.seed}/{key}/{row}", steps) for row in range(rows)], dim=1)

    def _row(self, name: str, steps: int) -> Tensor:
        # A file name need not be Unicode.
        digest = hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
        return torch.randn(steps, *self.shape, generator=generator)

    def _shared(self, batch: Mapping[str, Any], rows: int, steps: int) -> Tensor:
        if (rows, steps) not in self._shared_draws:
            self._shared_draws[rows, steps] = self._seeded("shared", rows, steps)
        draws = self._shared_draws[rows, steps].unsqueeze(1)
        return draws.expand(-1, batch["images"].shape[0], *[-1] * (1 + len(self.shape)))

    def _by_image(self, batch: Mapping[str, Any], rows: int, steps: int) -> Tensor:
        pixels = batch["images"].round().clamp(0, 255).to("cpu", torch.uint8)
        keys = [hashlib.blake2b(image.numpy().tobytes(), digest_size=16).hexdigest() for image in pixels]
        return torch.stack([self._seeded(key, rows, steps) for key in keys], dim=1)

    def _by_name(self, batch: Mapping[str, Any], rows: int, steps: int) -> Tensor:
        names = [os.path.basename(path) for path in batch["img_paths"]]
        return torch.stack([self._seeded(name, rows, steps) for name in names], dim=1)

    def _zeros(self, batch: Mapping[str, Any], rows: int, steps: int) -> Tensor:
        return torch.zeros(()).expand(steps, batch["images"].shape[0], rows, *self.shape)

    def _fresh(self, batch: Mapping[str, Any], rows: int, steps: int) -> Tensor:
        return torch.randn(steps, len(batch["images"]), rows, *self.shape, generator=self._running)
