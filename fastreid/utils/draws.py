"""Random numbers for a batch that several processes share: each row gets the same as in a single process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastreid.utils import comm
from fastreid.utils.devices import to_device


class BatchDraws:
    """Random numbers for the rows of this process, drawn for the rows of all processes from one seed.

    A run in R processes therefore draws the same numbers as a single process with the whole batch. The seed comes from
    the torch generator of the main process.

    Args:
        positions: [B], positions of the rows in the whole batch, on the CPU or the device.
        size: rows of the whole batch: R * B, or more if a batch passes through the model in parts.
        device: device of the numbers.
    """

    def __init__(self, positions: Tensor, size: int, device: torch.device) -> None:
        self._given, self._size, seed = positions, size, comm.shared_random_seed()
        self._positions = to_device(positions, device)
        self._generator = torch.Generator(device).manual_seed(seed)
        # A value that Python needs cannot come from a GPU without waiting for it.
        is_on_cpu = torch.device(device).type == "cpu"
        self._cpu_generator = self._generator if is_on_cpu else torch.Generator().manual_seed(seed)

    @classmethod
    def of(cls, batch: Mapping[str, Any], device: torch.device) -> BatchDraws:
        """Draws for the images of a batch; without "position" in it, the rows of the ranks follow each other."""
        if "position" in batch:
            return cls(batch["position"], int(batch["batch_size"][0]), device)
        rows = len(batch["images"])
        return cls(torch.arange(rows) + comm.get_rank() * rows, rows * comm.get_world_size(), device)

    def uniform(self, *shape: int) -> Tensor:
        """Numbers in [0, 1), [B, *shape]."""
        return self._draw(torch.rand, shape)

    def uniform_on_cpu(self) -> Tensor:
        """Numbers in [0, 1), [B], on the CPU, to choose rows of tensors that are there."""
        return torch.rand(self._size, generator=self._cpu_generator)[self._given.cpu()]

    def common_uniform(self) -> Tensor:
        """One number in [0, 1) for the whole batch, [1]."""
        return torch.rand(1, generator=self._generator, device=self._positions.device)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, [B, *shape]."""
        return self._draw(torch.randn, shape)

    def _draw(self, make: Any, shape: tuple[int, ...]) -> Tensor:
        return make(self._size, *shape, generator=self._generator, device=self._positions.device)[self._positions]
