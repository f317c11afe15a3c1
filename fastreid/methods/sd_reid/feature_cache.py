"""A cache of what a frozen encoder computes: training then neither decodes images nor runs the encoder."""

from __future__ import annotations

import hashlib
import io
import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastreid.config import CfgNode, ConfigError, image_size
from fastreid.data.transforms import AUGMENTATIONS
from fastreid.modeling.epoch_task import EpochPlan, EpochTask, TrainingSet
from fastreid.structures import PersonFeatures, PersonImage
from fastreid.utils.errors import ArgumentError
from fastreid.utils.files import atomic_write
from fastreid.utils.manifest import sha256_of
from fastreid.utils.seal import checksum_text, ends_with_its_checksum

logger = logging.getLogger(__name__)

KEY = "MODEL.SDMODEL.FEATURE_CACHE"
_READERS = 8


def check_cacheable(cfg: CfgNode) -> None:
    """Check that an image has two versions in training: as it is tested, and mirrored.

    Raises:
        ConfigError: another augmentation is enabled, or the sizes in training and test differ.
    """
    if enabled := [f"INPUT.{name}" for name in AUGMENTATIONS if cfg.INPUT[name].ENABLED]:
        raise ConfigError(
            f"{KEY} stores an image and its mirror image: turn {', '.join(enabled)} off, or empty the key"
        )
    if image_size(cfg) != image_size(cfg, is_train=False):
        raise ConfigError(f"{KEY} needs INPUT.SIZE_TRAIN and INPUT.SIZE_TEST to be the same")


class FeatureCache:
    """Features of every training image and of its mirror image in a memory-mapped file, float32 [N, 2, L + 1, D].

    The name of the file follows from the weights of the encoder, its precision, the image size and the content of the
    image files, so that a folder may hold the caches of several trainings. The file ends with a checksum, which is
    compared when it is opened.

    Args:
        folder: folder of the file.
        facts: what the features depend on beside weights and images.
    """

    def __init__(self, folder: str, facts: Sequence[Any] = ()) -> None:
        self.folder, self._facts = Path(folder), tuple(facts)
        self._path: Path | None = None
        self._rows: np.ndarray | None = None

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
                self._rows = np.load(str(self._path), mmap_mode="r", allow_pickle=False)
            except (ValueError, EOFError, OSError) as error:
                logger.warning("%s is damaged (%s)", self._path, error)
        return self._rows

    def choose(self, encoder: nn.Module, images: Sequence[PersonImage], precision: str) -> None:
        """Use the file of an encoder and a training set.

        Args:
            encoder: the frozen encoder.
            images: all training images.
            precision: type of the encoder's computations.
        """
        digest = hashlib.blake2b(repr((*self._facts, precision)).encode(), digest_size=12)
        for name, value in sorted(encoder.state_dict().items()):
            digest.update(
                name.encode() + value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            )
        with ThreadPoolExecutor(_READERS) as pool:
            # Of the content alone: a file that was copied or restored has the same features.
            for checksum in pool.map(sha256_of, (image.path for image in images), chunksize=64):
                digest.update(str(checksum).encode())
        self.use(f"features_{digest.hexdigest()}.npy")

    def use(self, name: str) -> None:
        """Use a file of the folder, which may not be there."""
        self._path, self._rows = self.folder / name, None

    def write(self, batches: Iterator[Tensor], size: int) -> None:
        """Write the file; it is complete or not there.

        Args:
            batches: float32 [B, 2, L + 1, D], of all images in their order.
            size: number of images N.

        Raises:
            ConfigError: images are missing, as they could not be read.
            DiskError: the disk is full.
        """
        assert self._path is not None
        written = checksum = 0
        with atomic_write(self._path, "wb", advice=f"Free some space, or set {KEY} to another disk") as file:
            for rows in batches:
                content = (b"" if written else _header((size, *rows.shape[1:]))) + rows.contiguous().numpy().tobytes()
                checksum = zlib.crc32(content, checksum)
                file.write(content)
                written += len(rows)
            file.write(checksum_text(checksum))
            if written != size:
                raise ConfigError(
                    f"{size - written} of {size} training images cannot be read, and {KEY} leaves no choice of others: "
                    "mend or remove the files, or empty the key"
                )

    def read(self, indices: Tensor, mirrored: Tensor) -> PersonFeatures:
        """Return the features of images.

        Args:
            indices: [B], positions in the training set.
            mirrored: [B], whether to take the mirror image.

        Returns:
            Features on the CPU.

        Raises:
            ArgumentError: the file is not there, or damaged.
        """
        stored = self._open()
        if stored is None:
            raise ArgumentError(
                f"{self._path or self.folder} is missing or damaged: it was written before the first epoch of this "
                f"training. Set {KEY} to the folder that has it, or empty the key; the losses are the same without it"
            )
        rows = torch.from_numpy(stored[indices.cpu().numpy(), mirrored.cpu().long().numpy()])
        return PersonFeatures(identity=rows[:, 0], view=rows[:, 1], id_conditions=rows[:, 2:])


def _header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()


class FillFeatureCache(EpochTask):
    """Fills a cache before the first epoch of a run, unless its file is there already.

    Args:
        cache: the cache.
        encoder: the frozen encoder.
    """

    def __init__(self, cache: FeatureCache, encoder: nn.Module) -> None:
        self._cache, self._encoder = cache, encoder

    def is_due(self, epoch: int) -> bool:
        """Return True for the first epoch, and whenever the file is missing."""
        return epoch == 0 or not self._cache.is_filled

    def run(self, training_set: TrainingSet) -> EpochPlan | None:
        """Encode all training images and their mirror images; labels and order stay."""
        self._cache.choose(self._encoder, training_set.images, _precision(self._encoder))
        if self._cache.is_filled:
            logger.info("the features of the training images are in %s", self._cache.folder / self._cache.name)
            return None
        logger.info("storing the features of %d training images in %s", len(training_set.images), self._cache.folder)
        with torch.random.fork_rng(devices=[]):  # a loader draws a seed: the losses must not depend on the cache
            batches = (self._encode(batch) for batch in training_set.batches(training_set.images) if "images" in batch)
            self._cache.write(batches, len(training_set.images))
        return None

    def _encode(self, batch: Mapping[str, Any]) -> Tensor:
        versions = [self._encoder(images) for images in (batch["images"], batch["images"].flip(-1))]
        rows = [torch.cat([f.identity[:, None], f.view[:, None], f.id_conditions], dim=1).float() for f in versions]
        return torch.stack(rows, dim=1).cpu()

    def state_dict(self) -> dict[str, Any]:
        """Return the name of the file."""
        return {"file": self._cache.name}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Use the file with this name."""
        if state["file"]:
            self._cache.use(state["file"])


def _precision(encoder: nn.Module) -> str:
    """The type that autocast uses on the device of an encoder."""
    kind = next(encoder.parameters()).device.type
    return str(torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32)
