"""Benchmarks as tables: a reader of file names, and a row for each evaluation protocol."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from fastreid.data.benchmarks.sizes import Sizes
from fastreid.data.benchmarks.sources import Folder, MissingImages, Source
from fastreid.data.datasets.bases import DatasetError, ImageDataset
from fastreid.structures import JUNK_PERSON, PersonImage, View
from fastreid.utils.logger import log_once

logger = logging.getLogger(__name__)

SPLITS = ("train", "query", "gallery")
# Share of a split that may be skipped for its cameras; with more, it is another data set in the benchmark's form.
_MOST_STRANGE = 1 / 3
_OWN_CAMERAS = "Own images with cameras of their own are read from a table: csv:FILE with a column camera"


class UnexpectedCamera(ValueError):
    """An image of a camera that the benchmark does not have; it is logged and skipped."""


@dataclass(frozen=True)
class Protocol:
    """The queries and the gallery that are ranked against each other.

    Attributes:
        query: source of the query images.
        gallery: source of the gallery images.
        query_views: views that are kept of the queries; None keeps all.
        gallery_views: views that are kept of the gallery; None keeps all.
        camera_is_view: use the view as camera id in rankings, so that only matches across views count.
        train: source of the training images, if it is not the benchmark's.
        sizes: published counts of "query" and "gallery", and of "train" if it has its own.
        valid_queries: number of queries that have a match, as published or as published figures imply.
        about: what the protocol measures, in a sentence or two, for reports.
        title: name of the protocol in papers, for reports; "" if it is the registered name.
    """

    query: Source = Folder("query")
    gallery: Source = Folder("gallery")
    query_views: frozenset[View] | None = None
    gallery_views: frozenset[View] | None = None
    camera_is_view: bool = False
    train: Source | None = None
    sizes: Mapping[str, Sizes] = field(default_factory=dict)
    valid_queries: int | None = None
    about: str = ""
    title: str = ""

    def source(self, split: str) -> Source | None:
        """Source of "train", "query" or "gallery"; None if it is the benchmark's."""
        return {"train": self.train, "query": self.query, "gallery": self.gallery}[split]

    def apply(self, images: Iterable[PersonImage], split: str) -> list[PersonImage]:
        """The images of the "query" or "gallery", with the camera ids of this protocol."""
        views = self.query_views if split == "query" else self.gallery_views
        kept = [image for image in images if views is None or image.view in views]
        return [replace(image, camera=int(image.view)) for image in kept] if self.camera_is_view else kept


@dataclass(frozen=True)
class Benchmark:
    """A benchmark on disk, in one of `folders` below the data root.

    Attributes:
        name: name of the benchmark.
        folders: possible names of its folder; `layout` shows the first.
        train: source of the training images, for protocols without their own.
        read: path, and the numbers in a list file -> PersonImage; raises ValueError for a file name of another form,
            and UnexpectedCamera. People are numbered from 0, or `JUNK_PERSON`, or `UNNAMED_PERSON`.
        protocols: registered name -> protocol.
        layout: the expected tree of files, shown if it is missing.
        aliases: other registered name -> protocol.
        train_sizes: published counts of the training images.
        first_test_person: added to person ids of query and gallery that count from 0, as those of training do.
        distractors: gallery people that DATASETS.COMBINEALL does not train on.
    """

    name: str
    folders: tuple[str, ...]
    train: Source
    read: Callable[..., PersonImage]
    protocols: Mapping[str, Protocol]
    layout: str
    aliases: Mapping[str, str] = field(default_factory=dict)
    train_sizes: Sizes = Sizes()
    first_test_person: int = 0
    distractors: tuple[int, ...] = ()

    def names(self) -> Iterator[str]:
        """All names of the protocols, aliases included."""
        yield from self.protocols
        yield from self.aliases

    def protocol(self, name: str) -> Protocol:
        """The protocol of this name or alias."""
        return self.protocols[self.aliases.get(name, name)]

    def train_name(self, name: str) -> str:
        """Name of the training images of protocol `name`, which several protocols may share."""
        return self.name if self.protocol(name).train is None else name

    def home(self, root: str | Path) -> Path:
        """The benchmark's folder below `root`: the first that exists, else the usual one."""
        candidates = [Path(root) / folder for folder in self.folders]
        return next(filter(Path.is_dir, candidates), candidates[0])

    def load(self, name: str, root: str | Path) -> ImageDataset:
        """Protocol `name` below `root`. Each split is read on first access: evaluation needs no training images.

        Raises:
            DatasetError: on access to a split: its folder or list is missing or empty, lists missing images or
                unexpected views, or file names have another form.
        """
        self._warn_of_others(root)
        train, query, gallery = (partial(self._split, split, name, self.home(root)) for split in SPLITS)
        dataset = ImageDataset(train, query, gallery, name)
        dataset._junk_pids = self.distractors  # fast-reid's name
        return dataset

    def _warn_of_others(self, root: str | Path) -> None:
        """Warn of further copies or releases below the same root, as only one is read."""
        home = self.home(root)
        candidates = [Path(root) / folder for folder in self.folders]
        others = [place for place in candidates if place.is_dir() and not _is_around(place, home)]
        if others:
            also = ", ".join(map(str, others))
            log_once(logger, logging.WARNING, f"{self.name} is read from {home}, not from {also}, which exists too")

    def _split(self, split: str, name: str, home: Path) -> list[PersonImage]:
        protocol = self.protocol(name)
        source = protocol.source(split) or self.train
        try:
            images = self._read(home, source)
        except MissingImages as error:
            raise DatasetError(f"{self.name}: {error} ({_content_of(home)}). {self._expected_tree()}") from None
        if split == "train":
            people = [image for image in images if image.person >= 0]
            if unnamed := len(images) - len(people):
                log_once(
                    logger,
                    logging.INFO,
                    f"{home}, {source.name}: {unnamed:,} images of unnamed people are not trained on",
                )
            images = people
        else:
            images = protocol.apply(images, split)
            if self.first_test_person:
                images = [replace(image, person=image.person + self.first_test_person) for image in images]
        if difference := self.sizes(name, split).explain(Sizes.of(images)):
            if (home / "render.json").is_file():
                where = "a rendered stand-in"
                difference = f"it is not the published {self.name}, and its figures compare with nothing else"
            else:
                where = source.name if split == "train" else f"{split} of {name}"
            log_once(logger, logging.WARNING, f"{home}, {where}: {difference}")
        return images

    def sizes(self, name: str, split: str) -> Sizes:
        """Published counts of a split of protocol `name`."""
        return self.protocol(name).sizes.get(split, self.train_sizes if split == "train" else Sizes())

    def _read(self, home: Path, source: Source) -> list[PersonImage]:
        entries = source.entries(home)
        images: list[PersonImage] = []
        misnamed: list[Path] = []
        strange: Counter[str] = Counter()
        for entry in entries:
            try:
                images.append(self.read(entry.path, *entry.numbers))
            except UnexpectedCamera as error:
                strange[str(error)] += 1
            except ValueError:
                misnamed.append(entry.path)
        if misnamed:
            raise DatasetError(
                f"{len(misnamed)} of {len(entries)} images in {home}, {source.name}, have no {self.name} file name, "
                f"for example {misnamed[0].relative_to(home)}. {self._expected_tree()}"
            )
        self._check_cameras(home, source, strange, len(entries))
        if not images:
            raise MissingImages(f"no images of the cameras of {self.name} in {home}, {source.name}")
        self._check_views(home, source, images)
        kept = [image for image in images if image.person != JUNK_PERSON]
        if junk := len(images) - len(kept):
            log_once(logger, logging.INFO, f"{home}, {source.name}: {junk:,} junk images (bad boxes) skipped")
        return kept

    def _check_cameras(self, home: Path, source: Source, strange: Mapping[str, int], total: int) -> None:
        """Log how many images are skipped for their camera; raise if they are a large part."""
        skipped = sum(strange.values())
        if skipped > _MOST_STRANGE * total:
            raise DatasetError(
                f"{self.name}: {skipped:,} of {total:,} images in {home}, {source.name}, are of cameras that the "
                f"benchmark does not have ({'; '.join(strange)}). {_OWN_CAMERAS}"
            )
        for camera, count in strange.items():
            log_once(
                logger,
                logging.WARNING,
                f"{home}, {source.name}: {count:,} images skipped: {camera} (of {total:,} images). {_OWN_CAMERAS}",
            )

    def _check_views(self, home: Path, source: Source, images: list[PersonImage]) -> None:
        if source.views is None:
            return
        strangers = [image for image in images if image.view not in source.views]
        if strangers:
            wanted = " or ".join(View(view).name.lower() for view in sorted(source.views))
            counts = f"{len(strangers):,} of {len(images):,} images"
            raise DatasetError(
                f"{self.name}: in {home}, {source.name}, {counts} are not {wanted}, for example "
                f"{Path(strangers[0].path).name}: were files or folders mixed up?"
            )

    def _expected_tree(self) -> str:
        return f"Expected below DATASETS.ROOT or $FASTREID_DATASETS:\n{self.layout}"


def _is_around(place: Path, home: Path) -> bool:
    """Whether `home` is `place`, possibly under another name, or in it."""
    return any(place.samefile(folder) for folder in (home, *home.parents) if folder.is_dir())


def _content_of(home: Path) -> str:
    if not home.is_dir():
        if not home.parent.is_dir():
            return f"there is no folder {home.parent}"
        beside = sorted(p.name for p in home.parent.iterdir())[:8]
        return f"there is no {home.name} in {home.parent}, which holds {', '.join(beside) or 'nothing'}"
    found = sorted(p.name for p in home.iterdir())
    return f"{home} holds {', '.join(found[:12]) or 'nothing'}{' …' if len(found) > 12 else ''}"
