"""The loader that training and evaluation draw from: a torch DataLoader whose batches are finished in this process."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from fastreid.data.transforms import Pixels
from fastreid.data.workers import explained

logger = logging.getLogger(__name__)

_SHOWN = 5


class PersonLoader(DataLoader):
    """A DataLoader whose workers hand over bytes, and what they had to skip; batches hold neither.

    `images` become float32 [B, 3, H, W] in 0..255 here, on the device: bytes are a quarter of what must be carried from
    process to process and to a GPU.

    Args:
        device: where images are wanted.
        args, options: DataLoader's; its dataset has the `transform` that made the images.

    Attributes: skipped, {path: reason} of what was skipped in the batches that were handed out so far.
    """

    def __init__(self, *args: Any, device: torch.device | str = "cpu", **options: Any) -> None:
        super().__init__(*args, **options)
        self.device = device
        self.skipped: dict[str, str] = {}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self._finished(super().__iter__())  # now, not with the first batch: it draws a seed

    def _finished(self, batches: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for batch in explained(batches):
            self._note(batch.pop("skipped", ()))
            if isinstance(batch.get("images"), Pixels):
                batch["images"] = batch["images"].to_float(self.dataset.transform.erase_value, self.device)
            if batch:
                yield batch

    def _note(self, skipped: list[tuple[str, str]]) -> None:
        for path, reason in skipped:
            if path not in self.skipped and len(self.skipped) < _SHOWN:
                logger.warning("skipping image %s: %s", path, reason)
            self.skipped[path] = reason
