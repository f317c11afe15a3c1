"""How workers hand over a batch: in memory that they share with the process that forked them, mapped once and for all.

torch makes a file in shared memory for each tensor of each batch, sends it over a socket of its own, and maps it anew;
for a batch of small images that takes longer than reading it back, and takes it from the cores that train.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate, get_worker_info

from fastreid.data.transforms import Pixels

Collate = Callable[[Sequence[dict[str, Any]]], dict[str, Any]]


class Places:
    """Room for `per_worker` batches of each worker, which are used in turn.

    Args:
        shape: of a full batch, [B, 3, H, W].
    """

    def __init__(self, num_workers: int, per_worker: int, shape: tuple[int, ...]) -> None:
        places = num_workers, per_worker
        # Anonymous: it needs no /dev/shm, which containers keep small. Pages that nobody writes take no memory.
        self.images = torch.frombuffer(mmap.mmap(-1, int(np.prod(places + shape))), dtype=torch.uint8)
        self.images = self.images.view(*places, *shape)
        self.numbers = torch.frombuffer(mmap.mmap(-1, 8 * int(np.prod(places))), dtype=torch.int64).view(places)

    def fits(self, shape: torch.Size) -> bool:
        """Whether images are of this shape [3, H, W]."""
        return self.images.shape[3:] == shape


class Parcel(NamedTuple):
    """What is sent of a batch.

    Attributes:
        place: (worker, which of its places, the batch's number) of the images; None of images that came another way.
        count: of images in that place.
        erased: int64 [B, 4], as in `Pixels`.
        numbers: tensors of the batch, as arrays: those are sent along instead of being shared.
        others: the rest of the batch.
    """

    place: tuple[int, int, int] | None
    count: int
    erased: np.ndarray | None
    numbers: dict[str, np.ndarray]
    others: dict[str, Any]


class Packing:
    """A `collate_fn` that makes parcels in workers, and batches anywhere else.

    Args:
        collate: items -> batch.

    Attributes: places, where workers that are forked now put their images; None shares each batch as torch does.
    """

    _INLINE_BYTES = 1 << 16

    def __init__(self, collate: Collate | None = None) -> None:
        self._collate = collate or default_collate
        self.places: Places | None = None
        self._done = 0

    def __call__(self, items: Sequence[dict[str, Any]]) -> Any:
        worker = get_worker_info()
        if worker is None:
            return self._collate(items)
        images = self._images(items) if self.places is not None else []
        batch = self._collate([{k: v for k, v in item.items() if k != "images"} for item in items] if images else items)
        numbers = {name: value.numpy() for name, value in batch.items() if self._is_small(value)}
        others = {name: value for name, value in batch.items() if name not in numbers}
        if not images:
            return Parcel(None, 0, None, numbers, others)
        place = worker.id, self._done % self.places.numbers.shape[1]
        self._done += 1
        self.places.numbers[place] = self._done
        torch.stack([pixels.image for pixels in images], out=self.places.images[place][: len(images)])
        erased = torch.stack([pixels.erased for pixels in images]).numpy()
        return Parcel((*place, self._done), len(images), erased, numbers, others)

    def _images(self, items: Sequence[dict[str, Any]]) -> list[Pixels]:
        """Those of the batch, if they can lie in a place; else none."""
        images = [item["images"] for item in items if "images" in item]
        fit = all(isinstance(pixels, Pixels) and self.places.fits(pixels.image.shape) for pixels in images)
        return images if fit and len(images) <= self.places.images.shape[2] else []

    def _is_small(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.nbytes <= self._INLINE_BYTES


def unpack(sent: Parcel | dict[str, Any], places: Places | None, finish: Callable[[Pixels], Tensor]) -> dict[str, Any]:
    """The batch of a parcel, or one that was made in this process; `finish` copies its images, if they are `Pixels`.

    Raises:
        RuntimeError: a worker has put its next images in the same place already.
    """
    batch = sent
    if isinstance(sent, Parcel):
        batch = {name: torch.from_numpy(array) for name, array in sent.numbers.items()} | sent.others
        if sent.place is not None:
            worker, which, number = sent.place
            lying = Pixels(places.images[worker, which][: sent.count], torch.from_numpy(sent.erased))
            batch = {"images": finish(lying), **batch}
            if places.numbers[worker, which] != number:
                raise RuntimeError(f"data worker {worker} is further ahead than this version of torch allowed it to be")
    if isinstance(batch.get("images"), Pixels):
        batch["images"] = finish(batch["images"])
    return batch
