"""Caches of what frozen parts compute for each training image, in memory-mapped files."""

from __future__ import annotations

import hashlib
import io
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastreid.config import ConfigError
from fastreid.data.images import open_image
from fastreid.modeling.epoch_task import EpochPlan, EpochTask, ShapeOf, TrainingSet
from fastreid.structures import PersonImage
from fastreid.utils.errors import ArgumentError
from fastreid.utils.files import atomic_write
from fastreid.utils.seal import checksum_text, ends_with_its_checksum

logger = logging.getLogger(__name__)

_READERS = 8


class ArrayCache:
    """Rows of numbers for each training image in a memory-mapped file, float32 [N, …].

    The name of the file follows from the weights of the frozen part, its precision, what else the rows depend on, and
    the content of the image files, so that a folder may hold the caches of several trainings. The file ends with a
    checksum, which is compared when it is opened.

    Args:
        folder: folder of the file.
        stem: beginning of the name of the file.
        key: the config key that names the folder, for messages.
        facts: what the rows depend on beside weights and images.
    """

    def __init__(self, folder: str, *, stem: str, key: str, facts: Sequence[Any] = ()) -> None:
        self.folder, self.key = Path(folder), key
        self._stem, self._facts = stem, tuple(facts)
        self._path: Path | None = None
        self._rows: np.ndarray | None = None
        self._made_up: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """Name of the file; "" before `choose`."""
        return "" if self._path is None else self._path.name

    @property
    def is_filled(self) -> bool:
        """Whether the file is there and complete."""
        return self._open() is not None

    def _open(self) -> np.ndarray | None:
        if self._rows is None and self._path is not None and self._path.is_file():
            try:
                if not ends_with_its_checksum(self._path):
                    raise ValueError("its checksum differs, or an earlier version wrote it without one")
                self._rows = np.lib.format.open_memmap(str(self._path), mode="r")
            except (ValueError, EOFError, OSError) as error:
                logger.warning("%s is damaged (%s)", self._path, error)
        return self._rows

    def choose(self, frozen: nn.Module, images: Sequence[PersonImage], precision: str) -> None:
        """Use the file of a frozen part and a training set.

        Args:
            frozen: the part whose outputs are stored.
            images: all training images.
            precision: type of its computations.
        """
        digest = hashlib.blake2b(repr((*self._facts, precision)).encode(), digest_size=12)
        for name, value in sorted(frozen.state_dict().items()):
            digest.update(
                name.encode() + value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            )
        with ThreadPoolExecutor(_READERS) as pool:
            # Of the content alone: a file that was copied or restored has the same rows.
            for checksum in pool.map(_checksum, (image.path for image in images), chunksize=64):
                digest.update(str(checksum).encode())
        self.use(f"{self._stem}_{digest.hexdigest()}.npy")

    def use(self, name: str) -> None:
        """Use a file of the folder, which may not be there."""
        self._path, self._rows = self.folder / name, None

    def make_up(self, shape: Sequence[int]) -> None:
        """Let every row that is read be zeros of a shape, for a dry run."""
        self._made_up = tuple(shape)

    def write(self, batches: Iterator[Tensor], size: int) -> None:
        """Write the file; it is complete or not there.

        Args:
            batches: float32 [B, …], of all images in their order.
            size: number of images N.

        Raises:
            ConfigError: images are missing, as they could not be read.
            DiskError: the disk is full.
        """
        assert self._path is not None
        written = checksum = 0
        with atomic_write(self._path, "wb", advice=f"Free some space, or set {self.key} to another disk") as file:
            for rows in batches:
                content = (b"" if written else _header((size, *rows.shape[1:]))) + rows.contiguous().numpy().tobytes()
                checksum = zlib.crc32(content, checksum)
                file.write(content)
                written += len(rows)
            file.write(checksum_text(checksum))
            if written != size:
                raise ConfigError(
                    f"{size - written} of {size} training images cannot be read, and {self.key} leaves no choice of "
                    "others: mend or remove the files, or empty the key"
                )

    def read(self, *index: Tensor) -> Tensor:
        """Return rows on the CPU.

        Args:
            *index: positions in the training set [B], and in further dimensions of the rows.

        Raises:
            ArgumentError: the file is not there, or damaged.
        """
        if self._made_up is not None:
            return torch.zeros(len(index[0]), *self._made_up[len(index) - 1 :])
        stored = self._open()
        if stored is None:
            raise ArgumentError(
                f"{self._path or self.folder} is missing or damaged: it was written before the first epoch of this "
                f"training. Set {self.key} to the folder that has it, or empty the key; the losses are the same "
                "without it"
            )
        return torch.from_numpy(stored[tuple(part.cpu().long().numpy() for part in index)])


def _checksum(path: str) -> str | None:
    """SHA-256 of the content of an image; None if there is no such file."""
    try:
        with open_image(path) as file:
            return hashlib.sha256(file.read()).hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()


class FillCache(EpochTask):
    """Fills a cache before the first epoch of a run, unless its file is there already.

    Args:
        cache: the cache.
        frozen: the part whose outputs are stored.
        encode: batch -> its rows [B, …].
        batches: training set -> batches of all its images in their order; by default with the test transforms.
    """

    def __init__(
        self,
        cache: ArrayCache,
        frozen: nn.Module,
        encode: Callable[[Mapping[str, Any]], Tensor],
        batches: Callable[[TrainingSet], Iterable[Mapping[str, Any]]] = lambda known: known.batches(known.images),
    ) -> None:
        self._cache, self._frozen, self._encode, self._batches = cache, frozen, encode, batches
        self.reads = (frozen,)

    @property
    def name(self) -> str:
        """The class name and the key of the cache."""
        return f"{type(self).__name__} {self._cache.key}"

    def is_due(self, epoch: int) -> bool:
        """Return True for the first epoch, and whenever the file is missing."""
        return epoch == 0 or not self._cache.is_filled

    def run(self, training_set: TrainingSet) -> EpochPlan | None:
        """Encode all training images; labels and order stay."""
        images, cache = training_set.images, self._cache
        cache.choose(self._frozen, images, _precision(self._frozen))
        if cache.is_filled:
            logger.info("%s: the rows of the training images are in %s", cache.key, cache.folder / cache.name)
            return None
        logger.info("%s: storing rows of %d training images in %s", cache.key, len(images), cache.folder)
        with torch.random.fork_rng(devices=[]):  # a loader draws a seed: the losses must not depend on the cache
            found = (batch for batch in self._batches(training_set) if "images" in batch)
            cache.write((self._encode(batch).float().cpu() for batch in found), len(images))
        return None

    def rehearse(self, training_set: TrainingSet, shape_of: ShapeOf) -> None:
        """Let the cache return zeros."""
        self._cache.make_up(shape_of(self._encode, self._batches(training_set))[1:])

    def state_dict(self) -> dict[str, Any]:
        """Return the name of the file."""
        return {"file": self._cache.name}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Use the file with this name."""
        if state["file"]:
            self._cache.use(state["file"])


def _precision(frozen: nn.Module) -> str:
    """The type that autocast uses on the device of a part."""
    kind = next(frozen.parameters()).device.type
    return str(torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32)
