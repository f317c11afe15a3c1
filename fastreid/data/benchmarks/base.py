"""One benchmark is one table: a reader of file names and a row per evaluation protocol."""

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
from fastreid.data.scan import tell_once
from fastreid.structures import JUNK_PERSON, PersonImage, View

logger = logging.getLogger(__name__)

SPLITS = ("train", "query", "gallery")
# Share of a split that may be left out for its cameras; of more it is another data set in the benchmark's form.
_MOST_STRANGE = 1 / 3
_OWN_CAMERAS = "Own images with cameras of their own are read from a table: csv:FILE with a column camera"


class UnexpectedCamera(ValueError):
    """An image of a camera that the benchmark does not have; it is told and left out."""


@dataclass(frozen=True)
class Protocol:
    """Which images are ranked against which.

    Attributes:
        query, gallery: where the two sets come from.
        query_views, gallery_views: the views that are kept of them; None keeps all.
        camera_is_view: rank with the view as camera id, so that only matches across views count.
        train: where the training images are, if not where the benchmark's are.
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

    def apply(self, images: Iterable[PersonImage], views: frozenset[View] | None) -> list[PersonImage]:
        kept = [image for image in images if views is None or image.view in views]
        return [replace(image, camera=int(image.view)) for image in kept] if self.camera_is_view else kept


@dataclass(frozen=True)
class Benchmark:
    """A benchmark on disk, in one of `folders` below the data root.

    Attributes:
        name: as users call it.
        folders: names that its folder may have; the first is the one that `layout` shows.
        train: where the training images are, of every protocol that does not say otherwise.
        read: path, and the numbers that a list says of it -> PersonImage; raises ValueError for a file name of another
            form, UnexpectedCamera. People are numbered from 0, or `JUNK_PERSON`, or `UNNAMED_PERSON`.
        protocols: registered name -> protocol.
        layout: the tree that a user should have, shown when it is not there.
        aliases: other registered name -> protocol.
        train_sizes: published counts of the training images.
        first_test_person: added to people of query and gallery, where they are counted from 0 as those to train on are.
        distractors: people of the gallery whom DATASETS.COMBINEALL does not train on.
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
        """Every name under which a protocol can be asked for."""
        yield from self.protocols
        yield from self.aliases

    def protocol(self, name: str) -> Protocol:
        return self.protocols[self.aliases.get(name, name)]

    def train_name(self, name: str) -> str:
        """What the training images of protocol `name` are called: several protocols may share them."""
        return self.name if self.protocol(name).train is None else name

    def home(self, root: str | Path) -> Path:
        """The benchmark's folder below `root`: the first that exists, else the usual one."""
        candidates = [Path(root) / folder for folder in self.folders]
        return next(filter(Path.is_dir, candidates), candidates[0])

    def load(self, name: str, root: str | Path) -> ImageDataset:
        """Protocol `name` below `root`. A split is read when it is asked for: evaluating needs no training images.

        Raises:
            DatasetError: when a split is asked for: its folder or list is missing or empty, names images that are not
                there or views that are not its own, or file names have another form.
        """
        self._tell_of_others(root)
        dataset = ImageDataset(*(partial(self._split, split, name, self.home(root)) for split in SPLITS), name)
        dataset._junk_pids = self.distractors  # fast-reid's name for them
        return dataset

    def _tell_of_others(self, root: str | Path) -> None:
        """Two copies, or two releases, below one root: only one is read."""
        home = self.home(root)
        candidates = [Path(root) / folder for folder in self.folders]
        others = [place for place in candidates if place.is_dir() and not _is_around(place, home)]
        if others:
            also = ", ".join(map(str, others))
            tell_once(logger, logging.WARNING, f"{self.name} is read from {home}, not from {also}, which is there, too")

    def _split(self, split: str, name: str, home: Path) -> list[PersonImage]:
        protocol = self.protocol(name)
        source = getattr(protocol, split) or self.train
        try:
            images = self._read(home, source)
        except MissingImages as error:
            raise DatasetError(f"{self.name}: {error} ({_what_is_in(home)}). {self._expected_tree()}") from None
        if split == "train":
            people = [image for image in images if image.person >= 0]
            if unnamed := len(images) - len(people):
                tell_once(
                    logger,
                    logging.INFO,
                    f"{home}, {source.name}: {unnamed:,} images of unnamed people are not trained on",
                )
            images = people
        else:
            images = protocol.apply(images, getattr(protocol, f"{split}_views"))
            if self.first_test_person:
                images = [replace(image, person=image.person + self.first_test_person) for image in images]
        if difference := self.sizes(name, split).explain(Sizes.of(images)):
            if (home / "render.json").is_file():
                where = "a rendered stand-in"
                difference = f"it is not the published {self.name}, and its figures compare with nothing else"
            else:
                where = source.name if split == "train" else f"{split} of {name}"
            tell_once(logger, logging.WARNING, f"{home}, {where}: {difference}")
        return images

    def sizes(self, name: str, split: str) -> Sizes:
        """Published counts of a split of protocol `name`."""
        return self.protocol(name).sizes.get(split, self.train_sizes if split == "train" else Sizes())

    def _read(self, home: Path, source: Source) -> list[PersonImage]:
        entries = source.entries(home)
        images, misnamed, strange = [], [], Counter()
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
            tell_once(logger, logging.INFO, f"{home}, {source.name}: {junk:,} junk images (bad boxes) skipped")
        return kept

    def _check_cameras(self, home: Path, source: Source, strange: Mapping[str, int], total: int) -> None:
        """Tell how many images are left out for their camera; refuse if that is a large part."""
        left_out = sum(strange.values())
        if left_out > _MOST_STRANGE * total:
            raise DatasetError(
                f"{self.name}: {left_out:,} of {total:,} images in {home}, {source.name}, are of cameras that the "
                f"benchmark does not have ({'; '.join(strange)}). {_OWN_CAMERAS}"
            )
        for camera, count in strange.items():
            tell_once(
                logger,
                logging.WARNING,
                f"{home}, {source.name}: {count:,} images left out: {camera} (of {total:,} images). {_OWN_CAMERAS}",
            )

    def _check_views(self, home: Path, source: Source, images: list[PersonImage]) -> None:
        strangers = [image for image in images if source.views is not None and image.view not in source.views]
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
    """Whether `home` is `place`, by whatever name, or in it."""
    return any(place.samefile(folder) for folder in (home, *home.parents) if folder.is_dir())


def _what_is_in(home: Path) -> str:
    if not home.is_dir():
        if not home.parent.is_dir():
            return f"there is no folder {home.parent}"
        beside = sorted(p.name for p in home.parent.iterdir())[:8]
        return f"there is no {home.name} in {home.parent}, which holds {', '.join(beside) or 'nothing'}"
    found = sorted(p.name for p in home.iterdir())
    return f"{home} holds {', '.join(found[:12]) or 'nothing'}{' …' if len(found) > 12 else ''}"
