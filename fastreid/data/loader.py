"""The loader of training and evaluation: a DataLoader that finishes each batch in the main process."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from fastreid.data.dataset import PersonDataset, collate, with_floats
from fastreid.data.workers import explained, starting_workers
from fastreid.utils.devices import to_device

logger = logging.getLogger(__name__)

_SHOWN = 5


class PersonLoader(DataLoader[Any]):
    """A DataLoader whose workers send uint8 pixels; batches have float32 images.

    Each view that the data set's transforms made as `Pixels` becomes float32 [B, 3, H, W] in 0..255 on `device`, in the
    main process.

    Args:
        dataset: the images.
        device: device of the images.
        options: further arguments of `DataLoader`.

    Attributes:
        moved: further keys of a batch whose tensors are moved to `device`.
        skipped: {path: reason} of the images that were skipped in the batches so far.
    """

    moved: Sequence[str] = ()
    dataset: PersonDataset

    def __init__(self, dataset: PersonDataset, *, device: torch.device | str = "cpu", **options: Any) -> None:
        super().__init__(dataset, collate_fn=collate, **options)
        self.device = device
        self.skipped: dict[str, str] = {}

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]  # finished batches
        with starting_workers() if self.num_workers else contextlib.nullcontext():
            batches = super().__iter__()  # now, not with the first batch: it draws a seed
        return self._finished(explained(batches) if self.num_workers else batches)

    def _finished(self, batches: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        moved = () if torch.device(self.device).type == "cpu" else self.moved
        for batch in batches:
            self._note(batch.pop("skipped", ()))
            batch |= {name: to_device(batch[name], self.device) for name in moved if name in batch}
            if batch:
                # Other data sets than `PersonDataset` may have no transforms; they have no `Pixels` either.
                yield with_floats(batch, getattr(self.dataset, "transforms", {}), self.device)

    def _note(self, skipped: Sequence[tuple[str, str]]) -> None:
        for path, reason in skipped:
            if path not in self.skipped and len(self.skipped) < _SHOWN:
                logger.warning("skipping image %s: %s", path, reason)
            self.skipped[path] = reason
