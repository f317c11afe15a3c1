"""Every image once per pass, in random order, endlessly."""

from collections.abc import Iterator, Sequence

import torch

from fastreid.config import ConfigError
from fastreid.data.samplers.base import EndlessSampler


class TrainingSampler(EndlessSampler):
    """Shuffled passes over all images, endlessly.

    Args:
        persons: identity per image; only its length matters here.
        batch_size: images per step.
        seed: seed of the order.
        group_size: consecutive images that one process should get.

    Raises:
        ConfigError: there are fewer images than one batch has.
    """

    def __init__(self, persons: Sequence[int], *, batch_size: int, seed: int, group_size: int = 1) -> None:
        super().__init__(batch_size, group_size)
        if len(persons) < batch_size:
            raise ConfigError(
                f"{len(persons)} training images are fewer than one batch of {batch_size}; lower SOLVER.IMS_PER_BATCH"
            )
        self.num_images, self.seed = len(persons), seed

    def stream(self) -> Iterator[int]:
        """The indices from the beginning of the order."""
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            yield from torch.randperm(self.num_images, generator=generator).tolist()
