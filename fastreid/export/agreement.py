"""Comparison of an exported file with the model that it was made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

BATCH_SIZES = (1, 2, 5)
"""Sizes of the batches that are compared: not only the one with which the graph was traced."""


@dataclass(frozen=True)
class Agreement:
    """How far two sets of descriptors are apart.

    Attributes:
        difference: greatest absolute difference of two numbers.
        scale: greatest absolute number of the model.
        cosine: smallest cosine of two descriptors of an image.
    """

    difference: float
    scale: float
    cosine: float

    @classmethod
    def of(cls, exported: Sequence[Tensor], expected: Sequence[Tensor]) -> Agreement:
        """Compare descriptors [B, D] of several batches."""
        pairs = [(found.double(), wanted.double()) for found, wanted in zip(exported, expected, strict=True)]
        return cls(
            difference=max((found - wanted).abs().max().item() for found, wanted in pairs),
            scale=max(wanted.abs().max().item() for _, wanted in pairs),
            cosine=min(F.cosine_similarity(found, wanted).min().item() for found, wanted in pairs),
        )

    def is_within(self, tolerance: float) -> bool:
        """Return whether the difference, as a share of the greatest number, and 1 - cosine are `tolerance` at most."""
        return self.difference <= tolerance * self.scale and self.cosine >= 1 - tolerance

    def __str__(self) -> str:
        sizes = ", ".join(map(str, BATCH_SIZES[:-1])) + f" and {BATCH_SIZES[-1]}"
        return (
            f"batches of {sizes} images: greatest difference {self.difference:.2e} (features are up to "
            f"{self.scale:.3g}), smallest cosine {self.cosine:.7f}"
        )


def sample_images(count: int, size: tuple[int, int], *, seed: int) -> Tensor:
    """Return images uint8 [count, 3, H, W], the same ones each time: in turn smooth ones, as pictures are, and noise.

    Args:
        count: number of images.
        size: (H, W).
        seed: seed of the numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(count, 3, *size, generator=generator)
    smooth = F.interpolate(torch.rand(count, 3, 6, 3, generator=generator), size=size, mode="bilinear")
    images = torch.where((torch.arange(count) % 2 == 0).view(-1, 1, 1, 1), 0.9 * smooth + 0.1 * noise, noise)
    return (255 * images).round().to(torch.uint8)
