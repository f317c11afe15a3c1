"""Every image once per pass, endlessly."""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch

from fastreid.config import ConfigError
from fastreid.data.samplers.base import EndlessSampler
from fastreid.utils import comm


class TrainingSampler(EndlessSampler):
    """Passes over all images, endlessly.

    Without a batch size it is fast-reid's sampler: `TrainingSampler(size, shuffle, seed)`. Each process then draws its
    own share of the images.

    Args:
        size: number of images, or a sequence with an entry for each.
        shuffle: whether each pass has a random order.
        seed: seed of the order; None for a random one, the same in all processes.
        batch_size: images per step; 0 for fast-reid's sampler.
        group_size: consecutive images that one process should get.

    Raises:
        ConfigError: there are fewer images than one batch has, or none.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        shuffle: bool = True,
        seed: int | None = None,
        *,
        batch_size: int = 0,
        group_size: int = 1,
    ) -> None:
        super().__init__(batch_size, group_size if batch_size else 0)
        self.num_images = size if isinstance(size, int) else len(size)
        if self.num_images < max(1, batch_size):
            raise ConfigError(
                f"{self.num_images} training images are fewer than one batch of {max(1, batch_size)}; lower "
                "SOLVER.IMS_PER_BATCH"
            )
        self.shuffle = shuffle
        self.seed = comm.shared_random_seed() if seed is None else seed

    def __iter__(self) -> Iterator[int]:
        if self.group_size:
            return super().__iter__()
        world_size = comm.get_world_size()
        return islice(self.stream(), self._skipped * world_size + comm.get_rank(), None, world_size)

    def stream(self) -> Iterator[int]:
        """The indices from the beginning of the order."""
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            if self.shuffle:
                yield from torch.randperm(self.num_images, generator=generator).tolist()
            else:
                yield from range(self.num_images)
