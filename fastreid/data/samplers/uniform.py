"""Every image once per pass, in random order, for ever."""

from collections.abc import Iterator, Sequence

import torch

from fastreid.config import ConfigError
from fastreid.data.samplers.base import EndlessSampler


class TrainingSampler(EndlessSampler):
    """Endless stream of shuffled passes; rank r of R takes every R-th index.

    Args:
        persons: identity per image; only its length matters here.
        batch_size: images per process and step.
        seed: the order follows from it; the same on all ranks.
    """

    def __init__(
        self,
        persons: Sequence[int],
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(batch_size)
        if len(persons) < batch_size * world_size:
            raise ConfigError(
                f"{len(persons)} training images are fewer than one batch of {batch_size * world_size}; "
                "lower SOLVER.IMS_PER_BATCH"
            )
        self.num_images, self.seed, self.rank, self.world_size = (
            len(persons),
            seed,
            rank,
            world_size,
        )

    def stream(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        position = 0
        while True:
            for index in torch.randperm(self.num_images, generator=generator).tolist():
                if position % self.world_size == self.rank:
                    yield index
                position += 1
