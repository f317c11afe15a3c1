"""A user's own images in folders: one per person, whose name is the person's, or images without labels."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastreid.data.benchmarks.base import SPLITS
from fastreid.data.benchmarks.person_camera import person_and_camera
from fastreid.data.datasets.bases import DatasetError, ImageDataset
from fastreid.data.own_rows import Row, dataset_of
from fastreid.data.scan import Scan, is_hidden_or_system, scan, shown
from fastreid.data.tables.inference import infer_pattern
from fastreid.data.tables.pattern import PatternError
from fastreid.utils.logger import log_once

logger = logging.getLogger(__name__)

FLAT = "its images are not in folders of people"
UNLABELLED = "images:FOLDER reads images without labels"
_SHOWN = 5
# Folder names that are more likely a part of a data set than a person.
_LIKE_SPLITS = frozenset(
    {
        *(*SPLITS, "training", "test", "testing", "val", "valid", "validation", "probe"),
        *("bounding_box_train", "bounding_box_test", "image_train", "image_query", "image_test"),
    }
)


def read_folders(home: Path) -> ImageDataset:
    """Read `home/<person>/…`, all for training, or `home/{train,query,gallery}/<person>/…`; no cameras, one view.

    A folder with images and no folders of images in it is a data set without labels. Any folder name is a person's
    name: `007` and `7` are two people, `-1` is a person. Images in deeper folders belong to the person of the outer
    folder.

    Raises:
        DatasetError: no images, images outside a person's folder, or folders that cannot be read.
    """
    home = home.absolute()
    splits = [split for split in SPLITS if os.path.isdir(home / split)]
    layout = _Layout(home, bool(splits))
    # Each split is scanned separately, so that one of them may be a link to another.
    scans = [scan(home / split) for split in splits] or [scan(home)]
    for found in scans:
        found.log()
    beside = scan(home, without=SPLITS).images if splits else []
    if layout.is_flat([*beside, *(path for found in scans for path in found.images)]):
        return _unlabelled(home, scans[0].images, FLAT)
    rows = [layout.row(path) for found in scans for path in found.images if not layout.is_outside(path)]
    outside = beside + [path for found in scans for path in found.images if layout.is_outside(path)]
    if outside:
        raise DatasetError(
            f"{len(outside):,} images are not below {layout.form}, for example {outside[0]}.{layout.advice(outside)}"
        )
    if not rows:
        raise DatasetError(f"no images below {layout.form}{_skipped(scans)}")
    layout.warn_of_other_readings(rows)
    layout.warn_of_empty(rows)
    return dataset_of(home, rows)


def read_images(home: Path) -> ImageDataset:
    """Read all images below a folder as training images without labels: no people, no cameras, one view.

    Raises:
        DatasetError: no images, or folders that cannot be read.
    """
    home = home.absolute()
    found = scan(home)
    found.log()
    if not found.images:
        raise DatasetError(f"no images below {home}{_skipped([found])}")
    layout = _Layout(home, has_splits=False)
    layout.warn_of_unread(found.images)
    return _unlabelled(home, found.images, UNLABELLED)


def _unlabelled(home: Path, paths: Sequence[Path], reason: str) -> ImageDataset:
    return dataset_of(home, [Row(str(path), None) for path in paths], unlabelled=reason)


def _skipped(scans: Sequence[Scan]) -> str:
    counts: Counter[str] = Counter()
    for found in scans:
        counts.update({reason: len(cases) for reason, cases in found.skipped.items()})
    return f" (skipped {', '.join(f'{count:,} {reason}' for reason, count in counts.items())})" if counts else ""


@dataclass(frozen=True)
class _Layout:
    """The layout of a folder.

    Attributes:
        home: the folder, absolute.
        has_splits: whether the people's folders are in train, query and gallery.
    """

    home: Path
    has_splits: bool

    @property
    def form(self) -> str:
        """The path of people's folders, for messages."""
        return f"{self.home}/{{train,query,gallery}}/PERSON/" if self.has_splits else f"{self.home}/PERSON/"

    @property
    def depth(self) -> int:
        """Number of folders between `home` and an image of a person."""
        return 2 if self.has_splits else 1

    def is_outside(self, path: Path) -> bool:
        """Whether an image is in no person's folder."""
        return len(path.relative_to(self.home).parts) <= self.depth

    def is_flat(self, paths: Sequence[Path]) -> bool:
        """Whether the images are in `home` itself, so that there are no people.

        Images with the names of Market-1501 have people and cameras, which would be lost.
        """
        return bool(paths) and all(path.parent == self.home and not _is_like_market(path) for path in paths)

    def row(self, path: Path) -> Row:
        """The row of an image."""
        parts = path.relative_to(self.home).parts
        return Row(str(path), parts[self.depth - 1], split=parts[0] if self.has_splits else "train")

    def advice(self, outside: Sequence[Path]) -> str:
        """Advice about images that belong to no person."""
        said = ""
        if self.has_splits:
            said += (
                f" Because {self.home} has a folder train, query or gallery, people are looked for in these alone: "
                "move other folders away, or rename a person who is called so."
            )
        if any(map(_is_like_market, outside)):
            said += (
                " Images named PERSON_cCAMERA… are of Market-1501's form: name the benchmark itself (Market1501), or "
                "list them in a table with the cameras (csv:FILE)."
            )
        return f"{said} images:FOLDER reads all images below a folder without labels, for methods that need none."

    def warn_of_unread(self, paths: Sequence[Path]) -> None:
        """Warn of people, cameras and splits that images without labels seem to have."""
        folders = {path.relative_to(self.home).parts[0] for path in paths if path.parent != self.home}
        if splits := sorted(name for name in folders if name.lower() in _LIKE_SPLITS):
            self._warn(f"the images in {', '.join(splits)} are all trained on; to leave some out, name a folder inside")
        self._warn_of_market(paths, "neither people nor cameras are read: csv:FILE with a column camera has cameras")

    def warn_of_other_readings(self, rows: Sequence[Row]) -> None:
        """Warn where the folders could have another meaning."""
        deeper = [row for row in rows if len(Path(row.path).relative_to(self.home).parts) > self.depth + 1]
        people = {row.person for row in rows if row.person is not None}
        if named := sorted(person for person in people if person.lower() in _LIKE_SPLITS):
            self._warn(
                f"the folders {', '.join(named)} are read as people; parts of a data set are called "
                f"{', '.join(SPLITS)}, in small letters, and are in {self.home} itself"
            )
        if deeper:
            self._warn(
                f"{len(deeper):,} of {len(rows):,} images are in deeper folders than PERSON/, for example "
                f"{self._short(deeper[0].path)}, read as an image of {deeper[0].person!r}; "
                f"{self._other_reading(rows) or 'if the inner folders are people, name the folder around them'}"
            )
        self._warn_of_market(
            [Path(row.path) for row in rows],
            "the folder says the person, and the cameras are not read: csv:FILE with a column camera has them",
        )
        if "-1" in people:
            self._warn(
                "the folder -1 is read as a person's; images of no person are for csv:FILE, where person -1 is none"
            )

    def _other_reading(self, rows: Sequence[Row]) -> str:
        """A question about two levels of folders, which may be camera/person; "" for others."""
        paths = [Path(row.path).relative_to(self.home).as_posix() for row in rows]
        if self.has_splits or {path.count("/") for path in paths} != {2}:
            return ""
        try:
            text = infer_pattern(paths).text
        except PatternError:
            text = "{camera}/{person}/{name}"
        form = text.removesuffix("/{name}").replace("{", "").replace("}", "")
        command = f'python tools/make_table.py --root {self.home} --pattern "{text}" --output people.csv'
        return f"did you mean {form}? {command} makes a table of people and cameras"

    def _warn_of_market(self, paths: Sequence[Path], consequence: str) -> None:
        if like := list(filter(_is_like_market, paths)):
            self._warn(
                f"{len(like):,} of {len(paths):,} images are named PERSON_cCAMERA… as in Market-1501, for example "
                f"{self._short(str(like[0]))}; {consequence}"
            )

    def warn_of_empty(self, rows: Sequence[Row]) -> None:
        """Warn of people's folders without images, which would otherwise be missing silently."""
        full = {(row.split, row.person) for row in rows}
        empty = [
            f"{split}/{entry.name}" if self.has_splits else entry.name
            for split in (SPLITS if self.has_splits else ("train",))
            for entry in self._people_folders(split)
            if (split, entry.name) not in full
        ]
        if empty:
            more = " …" if len(empty) > _SHOWN else ""
            self._warn(f"{len(empty):,} folders hold no images: {', '.join(sorted(empty)[:_SHOWN])}{more}")

    def _people_folders(self, split: str) -> list[os.DirEntry]:
        place = self.home / split if self.has_splits else self.home
        if not os.path.isdir(place):
            return []
        with os.scandir(place) as entries:
            return [entry for entry in entries if not is_hidden_or_system(entry.name) and os.path.isdir(entry.path)]

    def _short(self, path: str) -> str:
        return shown(os.path.relpath(path, self.home))

    def _warn(self, sentence: str) -> None:
        log_once(logger, logging.WARNING, f"{self.home}: {sentence}")


def _is_like_market(path: Path) -> bool:
    try:
        person_and_camera(path)
    except ValueError:
        return False
    return True
