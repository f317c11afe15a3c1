"""Augmentations that follow from an image's place in the run, not from which process drew it, or when.

So the same run with other DATALOADER.NUM_WORKERS, in more processes, or one that was killed and resumed, sees the very
same pictures.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from fastreid.config import ConfigError
from fastreid.data.common import WrappedDataset
from fastreid.data.samplers.base import EndlessSampler


class Draw(NamedTuple):
    """Image `index`, drawn as the `number`-th of the run, over all its processes."""

    index: int
    number: int


class NumberedSampler(Sampler[Draw]):
    """The indices of a sampler that are this process's, with their numbers; `fast_forward` counts on.

    An `EndlessSampler` gives whole batches: of each, rank r of R takes every R-th group, a group being the images of
    one person where the sampler has such. Any other sampler is one of somebody's who wrote it for fast-reid, and gives
    this process's images by itself.

    Args:
        batch_size: images per step, of all processes together.

    Raises:
        ConfigError: the groups of a batch do not divide over the processes.
    """

    def __init__(self, sampler: Sampler[int], batch_size: int, *, rank: int = 0, world_size: int = 1) -> None:
        self._sampler, self._batch_size, self._first = sampler, batch_size, 0
        self._rank, self._world_size = rank, world_size
        self._group = sampler.group_size if isinstance(sampler, EndlessSampler) else 0
        if self._group and batch_size % (self._group * world_size):
            raise ConfigError(
                f"SOLVER.IMS_PER_BATCH={batch_size} is {batch_size // self._group} people with "
                f"DATALOADER.NUM_INSTANCE={self._group} images each, which cannot be shared by {world_size} processes; "
                "make it a multiple"
            )

    def fast_forward(self, num_batches: int) -> None:
        """Let the next iteration start after that many batches, as a resumed run needs.

        A sampler of somebody's that cannot starts over; the counting goes on.
        """
        self._first = num_batches * self._batch_size
        getattr(self._sampler, "fast_forward", lambda _: None)(num_batches)

    def __iter__(self) -> Iterator[Draw]:
        if self._group:
            for number, index in enumerate(self._sampler, start=self._first):
                if number // self._group % self._world_size == self._rank:
                    yield Draw(index, number)
        else:
            own = self._batch_size // self._world_size
            for count, index in enumerate(self._sampler):
                yield Draw(index, self._first + count // own * self._batch_size + self._rank * own + count % own)


class NumberedDataset(WrappedDataset):
    """A dataset that draws random numbers from a seed of each draw.

    Args:
        dataset: whose items are asked for by index; its attributes are this one's, too. Items get a "position",
            their place in the batch of all processes, and the "batch_size" of that. If it says that it
            `draws_by_torch_alone`, Python's and NumPy's generators are not seeded: that takes longer than torch's.
        seed: of the run.
        batch_size: images per step, of all processes together.
    """

    def __init__(self, dataset: Dataset, seed: int, batch_size: int) -> None:
        super().__init__(dataset)
        self._seed, self._batch_size = seed, batch_size
        self._torch_alone = getattr(dataset, "draws_by_torch_alone", False)

    def __getitem__(self, draw: Draw) -> Any:
        return self.__getitems__([draw])[0]

    def __getitems__(self, draws: Sequence[Draw]) -> list[Any]:
        """The items of a batch: torch's loaders ask for them together."""
        with generators_left_alone(torch_alone=self._torch_alone):
            return [self._item(draw) for draw in draws]

    def _item(self, draw: Draw) -> Any:
        seed_generators(self._seed, draw.number, torch_alone=self._torch_alone)
        item = self._dataset[draw.index]
        return {**item, "position": draw.number % self._batch_size, "batch_size": self._batch_size}


def seed_generators(run: int, number: int, *, torch_alone: bool = False) -> None:
    """Torch's CPU generator, and Python's and NumPy's, start from these two numbers."""
    # One 64-bit number of both; neighbours give unrelated ones. A tenth of the time of NumPy's SeedSequence.
    digest = hashlib.blake2b(b"%d %d" % (run, number), digest_size=8).digest()
    seed = int.from_bytes(digest, "little")
    # Not torch.manual_seed: it also remembers a call for every GPU that a worker has not woken up.
    torch.default_generator.manual_seed(seed)
    if not torch_alone:
        random.seed(seed)
        np.random.seed(seed % 2**32)


@contextmanager
def generators_left_alone(*, torch_alone: bool = False) -> Iterator[None]:
    """The same generators go on afterwards as if nothing had been drawn. Far slower than seeding: once a batch."""
    states = None if torch_alone else (random.getstate(), np.random.get_state())
    torch_state = torch.default_generator.get_state()
    try:
        yield
    finally:
        torch.default_generator.set_state(torch_state)
        if states:
            random.setstate(states[0])
            np.random.set_state(states[1])
