"""Augmentations that follow from an image's place in the run, not from which process drew it, or when.

So the same run with other DATALOADER.NUM_WORKERS, in more processes, or one that was killed and resumed, sees the very
same pictures.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from fastreid.config import ConfigError
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


class NumberedDataset(Dataset):
    """A dataset that draws random numbers from a seed of each draw.

    Args:
        dataset: whose items are asked for by index; its attributes are this one's, too. Items get a "position",
            their place in the batch of all processes, and the "batch_size" of that.
        seed: of the run.
        batch_size: images per step, of all processes together.
    """

    def __init__(self, dataset: Dataset, seed: int, batch_size: int) -> None:
        self._dataset, self._seed, self._batch_size = dataset, seed, batch_size

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # before there is a dataset to ask: while a worker unpickles this
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, draw: Draw) -> Any:
        with seeded(self._seed, draw.number):
            item = self._dataset[draw.index]
        return {**item, "position": draw.number % self._batch_size, "batch_size": self._batch_size}


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Python's, NumPy's and torch's CPU generators start from these numbers inside, and go on as before after."""
    # One 64-bit number of them all; neighbours give unrelated ones.
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # Not torch.manual_seed: it also remembers a call for every GPU that a worker has not woken up.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])
