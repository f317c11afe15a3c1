"""Random numbers for a batch that several processes share: each row gets those that it would get in one process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastreid.utils import comm


class BatchDraws:
    """Numbers for this process's rows of a batch, drawn for the rows of all processes from one seed.

    So a run in R processes draws what one process with the whole batch would. The seed comes from torch's generator,
    that of the main process.

    Args:
        positions: [B], places of the rows in the whole batch.
        size: rows of the whole batch: R * B, or more where a batch goes through the model in parts.
        device: of the numbers.
    """

    def __init__(self, positions: Tensor, size: int, device: torch.device) -> None:
        self._positions, self._size = positions.to(device), size
        self._generator = torch.Generator(device).manual_seed(comm.shared_random_seed())

    @classmethod
    def of(cls, batch: Mapping[str, Any], device: torch.device) -> BatchDraws:
        """For the images of a batch; without "position" in it, ranks are taken to follow each other."""
        if "position" in batch:
            return cls(batch["position"], int(batch["batch_size"][0]), device)
        rows = len(batch["images"])
        return cls(torch.arange(rows) + comm.get_rank() * rows, rows * comm.get_world_size(), device)

    def uniform(self, *shape: int) -> Tensor:
        """Numbers in [0, 1), [B, *shape]."""
        return self._draw(torch.rand, shape)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, [B, *shape]."""
        return self._draw(torch.randn, shape)

    def _draw(self, make: Any, shape: tuple[int, ...]) -> Tensor:
        return make(self._size, *shape, generator=self._generator, device=self._positions.device)[self._positions]
