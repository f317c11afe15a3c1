"""One benchmark is one table: a reader of file names and a row per evaluation protocol."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from functools import cache
from pathlib import Path

from fastreid.data.datasets.bases import ImageDataset
from fastreid.structures import PersonImage

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp"})


class View(IntEnum):
    """From where a person is seen."""

    AERIAL = 0
    GROUND = 1
    WEARABLE = 2


class DatasetError(RuntimeError):
    """A benchmark's folder that is missing, incomplete or unreadable."""


@dataclass(frozen=True)
class Folder:
    """Every image below a sub-folder of the benchmark, in sorted order."""

    name: str

    def paths(self, root: Path) -> list[Path]:
        folder = root / self.name
        return sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)


@dataclass(frozen=True)
class Protocol:
    """Which images are ranked against which.

    Attributes:
        query, gallery: where the two sets come from.
        views: the views that are kept; None keeps all.
        camera_is_view: rank with the view as camera id, so that only matches across views count.
    """

    query: Folder = Folder("query")
    gallery: Folder = Folder("gallery")
    views: frozenset[View] | None = None
    camera_is_view: bool = False

    def apply(self, images: Iterable[PersonImage]) -> list[PersonImage]:
        kept = [image for image in images if self.views is None or image.view in self.views]
        return [replace(image, camera=image.view) for image in kept] if self.camera_is_view else kept


@dataclass(frozen=True)
class Sizes:
    """Image and identity counts as published."""

    train_images: int
    train_ids: int
    query_images: int
    gallery_images: int


@dataclass(frozen=True)
class Benchmark:
    """A benchmark on disk, `<root>/<folder>`.

    Attributes:
        name: as users call it.
        folder: folder below the data root.
        train: where the training images are; the same for every protocol.
        read: path -> PersonImage; raises ValueError for a file name of another form.
        protocols: registered name -> protocol.
        layout: the tree that a user should have, shown when it is not there.
        expected: published sizes of the protocol `name`.
    """

    name: str
    folder: str
    train: Folder
    read: Callable[[Path], PersonImage]
    protocols: Mapping[str, Protocol]
    layout: str
    expected: Sizes | None = None

    def load(self, protocol_name: str, root: str | Path) -> ImageDataset:
        """Read one protocol's images below `root`.

        Raises:
            DatasetError: a folder is missing or empty, or file names have another form.
        """
        protocol, home = self.protocols[protocol_name], Path(root) / self.folder
        splits = {"train": self.train, "query": protocol.query, "gallery": protocol.gallery}
        images = {split: self._read_split(home, folder) for split, folder in splits.items()}
        if self.expected:
            self._tell_sizes(home, images)
        return ImageDataset(
            images["train"],
            protocol.apply(images["query"]),
            protocol.apply(images["gallery"]),
            protocol_name,
        )

    def _read_split(self, home: Path, folder: Folder) -> list[PersonImage]:
        paths = folder.paths(home)
        if not paths:
            raise DatasetError(self._explain_missing(home, folder))
        images, misnamed = [], []
        for path in paths:
            try:
                images.append(self.read(path))
            except ValueError:
                misnamed.append(path)
        if misnamed:
            raise DatasetError(
                f"{len(misnamed)} of {len(paths)} images below {home / folder.name} have no {self.name} file "
                f"name, for example {misnamed[0].relative_to(home)}; expected\n{self.layout}"
            )
        return images

    def _explain_missing(self, home: Path, folder: Folder) -> str:
        found = sorted(p.name for p in home.iterdir()) if home.is_dir() else None
        there = "does not exist" if found is None else f"holds {', '.join(found[:8]) or 'nothing'}"
        return (
            f"{self.name}: no images in {home / folder.name} ({home} {there}). Expected below DATASETS.ROOT or "
            f"$FASTREID_DATASETS:\n{self.layout}"
        )

    def _tell_sizes(self, home: Path, images: Mapping[str, list[PersonImage]]) -> None:
        found = Sizes(
            len(images["train"]),
            len({image.person for image in images["train"]}),
            len(images["query"]),
            len(images["gallery"]),
        )
        if found != self.expected:
            rendered = (home / "render.json").is_file()
            _tell_once(f"{home} {_differences(self.name, found, self.expected, rendered=rendered)}")


def _differences(name: str, found: Sizes, expected: Sizes, *, rendered: bool) -> str:
    """Why `found` is not what the paper says."""
    if rendered:
        return f"is a rendered stand-in (render.json), not the published {name}: its figures compare with nothing else"
    different = [f.name for f in fields(Sizes) if getattr(found, f.name) != getattr(expected, f.name)]
    counts = (f"{getattr(found, f):,} {f.replace('_', ' ')} (published: {getattr(expected, f):,})" for f in different)
    return f"differs from the published {name}: {', '.join(counts)}"


@cache
def _tell_once(sentence: str) -> None:
    """Every protocol of a benchmark reads the same folder."""
    logger.warning("%s", sentence)
