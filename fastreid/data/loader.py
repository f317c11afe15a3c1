"""The loader that training and evaluation draw from: a torch DataLoader whose batches are finished in this process."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fastreid.data.handover import Collate, Packing, Places, unpack
from fastreid.data.transforms import Pixels
from fastreid.data.workers import explained, signals_blocked

logger = logging.getLogger(__name__)

_SHOWN = 5


class PersonLoader(DataLoader):
    """A DataLoader whose workers hand over bytes, and what they had to skip; batches hold neither.

    `images` become float32 [B, 3, H, W] in 0..255 here, on the device: bytes are a quarter of what must be carried from
    process to process and to a GPU.

    Args:
        device: where images are wanted.
        image_size: (height, width) of the images, if it is known. Workers that are forked then lay the bytes where this
            process reads them, unless they are for a GPU: those torch carries on from a thread of its own.
        args, options: DataLoader's; its dataset has the `transform` that made the images.

    Attributes: skipped, {path: reason} of what was skipped in the batches that were handed out so far.
    """

    def __init__(
        self,
        *args: Any,
        device: torch.device | str = "cpu",
        image_size: tuple[int, int] | None = None,
        collate_fn: Collate | None = None,
        **options: Any,
    ) -> None:
        self._packing = Packing(collate_fn)
        super().__init__(*args, collate_fn=self._packing, **options)
        self.device, self._image_size = device, image_size
        self.skipped: dict[str, str] = {}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        places = self._packing.places = self._places()
        with signals_blocked() if self.num_workers else contextlib.nullcontext():
            parcels = super().__iter__()  # now, not with the first batch: it draws a seed
        self._packing.places = None  # the workers have it; here it lives as long as the iterator
        return self._finished(parcels, places)

    def _places(self) -> Places | None:
        context = self.multiprocessing_context
        is_forked = self.num_workers > 0 and context is not None and context.get_start_method() == "fork"
        if not is_forked or self._image_size is None or torch.device(self.device).type != "cpu":
            return None
        # A worker is asked for as many batches as it may be ahead, and for one more while that before is finished.
        return Places(self.num_workers, self.prefetch_factor + 1, (self.batch_size, 3, *self._image_size))

    def _finished(self, parcels: Iterator[Any], places: Places | None) -> Iterator[dict[str, Any]]:
        for parcel in explained(parcels):
            batch = unpack(parcel, places, self._to_float)
            self._note(batch.pop("skipped", ()))
            if batch:
                yield batch

    def _to_float(self, pixels: Pixels) -> Tensor:
        return pixels.to_float(self.dataset.transform.erase_value, self.device)

    def _note(self, skipped: list[tuple[str, str]]) -> None:
        for path, reason in skipped:
            if path not in self.skipped and len(self.skipped) < _SHOWN:
                logger.warning("skipping image %s: %s", path, reason)
            self.skipped[path] = reason
