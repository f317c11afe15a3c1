"""Augmentations that follow from an image's place in the run, not from which worker process drew it, or when.

So the same run with other DATALOADER.NUM_WORKERS, or one that was killed and resumed, sees the very same pictures.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler


class Draw(NamedTuple):
    """Image `index`, for the `number`-th time that this process draws one."""

    index: int
    number: int


class NumberedSampler(Sampler[Draw]):
    """The indices of a sampler, counted; `fast_forward` counts on."""

    def __init__(self, sampler: Sampler[int], batch_size: int) -> None:
        self._sampler, self._batch_size, self._first = sampler, batch_size, 0

    def fast_forward(self, num_batches: int) -> None:
        """Let the next iteration start after that many batches, as a resumed run needs.

        A sampler of somebody's that cannot starts over; the counting goes on.
        """
        self._first = num_batches * self._batch_size
        getattr(self._sampler, "fast_forward", lambda _: None)(num_batches)

    def __iter__(self) -> Iterator[Draw]:
        for number, index in enumerate(self._sampler, start=self._first):
            yield Draw(index, number)


class NumberedDataset(Dataset):
    """A dataset that draws random numbers from a seed of each draw.

    Args:
        dataset: whose items are asked for by index; its attributes are this one's, too.
        seed: of the run and the process.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self._dataset, self._seed = dataset, seed

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # before there is a dataset to ask: while a worker unpickles this
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, draw: Draw) -> Any:
        with seeded(self._seed, draw.number):
            return self._dataset[draw.index]


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
