"""What becomes of images that cannot be read (DATALOADER.BAD_IMAGES): the run stops, or goes on and says so.

With "skip", training takes another image of the same person instead, and evaluation leaves the image out of its
protocols. Which image is taken follows from the draw's number (numbered.py), so a resumed run takes the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import default_collate

from fastreid.data.common import PersonDataset, WrappedDataset
from fastreid.data.images import ImageAccessError, ImageReadError
from fastreid.utils.skipped import tell_skipped

POLICIES = ("raise", "skip")


class LeavingOut(WrappedDataset):
    """A dataset in which what cannot be read is an item with nothing but `skipped`: [(path, reason)]."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        skipped: list[tuple[str, str]] = []
        for candidate in self._candidates(index):
            try:
                return {**self._dataset[candidate], "skipped": skipped}
            except ImageAccessError:
                raise
            except ImageReadError as error:
                skipped.append((self._dataset.images[candidate].path, error.reason))
        return self._nothing(skipped)

    def _candidates(self, index: int) -> Iterator[int]:
        yield index

    def _nothing(self, skipped: list[tuple[str, str]]) -> dict[str, Any]:
        return {"skipped": skipped}


class Replacing(LeavingOut):
    """A dataset that shows another image of the same label instead of one that cannot be read, or else any other.

    Raises:
        ImageReadError: when an item is asked for and as many others as there are images were tried in vain.
    """

    def __init__(self, dataset: PersonDataset) -> None:
        super().__init__(dataset)
        self._of_label: dict[int, list[int]] = defaultdict(list)
        for index, label in enumerate(dataset.labels):
            self._of_label[label].append(index)

    def _candidates(self, index: int) -> Iterator[int]:
        yield index
        same = [other for other in self._of_label[self._dataset.labels[index]] if other != index]
        yield from (same[place] for place in torch.randperm(len(same)).tolist())
        for _ in range(len(self)):
            yield int(torch.randint(len(self), ()))

    def _nothing(self, skipped: list[tuple[str, str]]) -> dict[str, Any]:
        raise ImageReadError(f"no image to train on can be read; {tell_skipped(dict(skipped))}")


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Items -> batch; `skipped` is one list, and alone if there is nothing else."""
    skipped = [pair for item in items for pair in item.pop("skipped")]
    whole = [item for item in items if item]
    return {**(default_collate(whole) if whole else {}), "skipped": skipped}
