"""Where the images of a split are found: a folder, or the lines of a list file."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from fastreid.data.datasets.bases import DatasetError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp"})
_SHOWN = 3
# Folders of thumbnails and file attributes that network drives and archives bring along.
_LITTER = frozenset({"@eaDir", "__MACOSX"})


class View(IntEnum):
    """From where a person is seen."""

    AERIAL = 0
    GROUND = 1
    WEARABLE = 2


class MissingImages(DatasetError):
    """A split whose folder or list file is not there, or lists images that are not."""


@dataclass(frozen=True)
class Folder:
    """Every image below a sub-folder of the benchmark, however deep, in sorted order.

    Attributes:
        name: of the sub-folder.
        views: the only views it may hold; None allows all.
    """

    name: str
    views: frozenset[View] | None = None

    def paths(self, home: Path) -> list[Path]:
        """The image files.

        Raises:
            MissingImages: there are none.
        """
        found = images_below(home / self.name)
        if not found:
            raise MissingImages(f"no images in {home / self.name}")
        return found


@dataclass(frozen=True)
class Listed:
    """Those lines of a list file that name queries (their folder's name starts with "query"), or those that do not.

    A line is a path below the benchmark's folder, with / or \\, the file with any line endings. An image that is not
    where its line says is also found elsewhere below the line's first folder, if just one file there has its name.

    Attributes:
        file: name of the list file.
        queries: which of the two.
        views: the only views these lines may name; None allows all.
    """

    file: str
    queries: bool
    views: frozenset[View] | None = None

    @property
    def name(self) -> str:
        return f"{'queries' if self.queries else 'gallery'} of {self.file}"

    def paths(self, home: Path) -> list[Path]:
        """The listed files, in the order of the lines.

        Raises:
            MissingImages: no such list file, no such lines, or images that are not there.
        """
        try:
            text = (home / self.file).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise MissingImages(f"{home / self.file} is no text file ({error})") from None
        except OSError as error:
            raise MissingImages(f"no list file {home / self.file} ({error.strerror})") from None
        lines = [line.strip().strip("\"'").replace("\\", "/").removeprefix("./") for line in text.splitlines()]
        wanted = [line for line in lines if line and line.startswith("query") == self.queries]
        if not wanted:
            there = f"its first line is {lines[0]!r}" if lines else "it is empty"
            raise MissingImages(
                f"{home / self.file} names no {'query' if self.queries else 'gallery'} images ({there}); lines start "
                "with the folder of their image, and that of queries with 'query'"
            )
        places = _find(home, wanted)
        for count, why in ((0, "not there"), (2, "there more than once, in other folders than the line says")):
            gone = [line for line in wanted if len(places[line][:2]) == count]
            if gone:
                raise MissingImages(
                    f"of {len(wanted):,} images ({self.name}) {len(gone):,} are {why}: {', '.join(gone[:_SHOWN])}"
                    f"{' …' if len(gone) > _SHOWN else ''}"
                )
        return [places[line][0] for line in wanted]


Source = Folder | Listed


def images_below(folder: Path) -> list[Path]:
    """Every image file below a folder, in sorted order. Links are followed; what systems leave behind is not read."""
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _LITTER]
        paths = (Path(place, name) for name in files if not name.startswith("."))
        found += [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    return sorted(found)


def _find(home: Path, lines: list[str]) -> dict[str, list[Path]]:
    """Line -> its file; or, if it is not where the line says, those of its name below the line's first folder."""
    # One walk of each folder instead of a question to the file system for each of 50,000 lines.
    below = {top: images_below(home / top) for top in {line.partition("/")[0] for line in lines}}
    exact = {path.relative_to(home).as_posix(): path for paths in below.values() for path in paths}
    by_name: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for top, paths in below.items():
        for path in paths:
            by_name[top, path.name.lower()].append(path)
    return {
        line: [exact[line]] if line in exact else by_name[line.partition("/")[0], line.rpartition("/")[2].lower()]
        for line in lines
    }
