"""Where the images of a split are found: a folder, or the lines of a list file."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from fastreid.data.datasets.bases import DatasetError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp"})
_SHOWN = 3


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
        found = _images_below(home / self.name)
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
        except FileNotFoundError:
            raise MissingImages(f"no list file {home / self.file}") from None
        except UnicodeDecodeError as error:
            raise MissingImages(f"{home / self.file} is no text file ({error})") from None
        lines = [line.strip().replace("\\", "/") for line in text.splitlines()]
        wanted = [line for line in lines if line and line.startswith("query") == self.queries]
        if not wanted:
            there = f"its first line is {lines[0]!r}" if lines else "it is empty"
            raise MissingImages(
                f"{home / self.file} names no {'query' if self.queries else 'gallery'} images ({there}); lines start "
                "with the folder of their image, and that of queries with 'query'"
            )
        paths = _find(home, wanted)
        gone = [line for line in wanted if line not in paths]
        if gone:
            raise MissingImages(
                f"{len(gone):,} of the {len(wanted):,} {self.name} are not below {home}: {', '.join(gone[:_SHOWN])}"
                f"{' …' if len(gone) > _SHOWN else ''}"
            )
        return [paths[line] for line in wanted]


Source = Folder | Listed


def _images_below(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)


def _find(home: Path, lines: list[str]) -> dict[str, Path]:
    """Line -> its file, for those that can be found."""
    # One walk of each folder instead of a question to the file system for each of 50,000 lines.
    below = {top: _images_below(home / top) for top in {line.partition("/")[0] for line in lines}}
    exact = {path.relative_to(home).as_posix(): path for paths in below.values() for path in paths}
    by_name: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for top, paths in below.items():
        for path in paths:
            by_name[top, path.name].append(path)
    found = {}
    for line in lines:
        namesakes = by_name[line.partition("/")[0], line.rpartition("/")[2]]
        if line in exact:
            found[line] = exact[line]
        elif len(namesakes) == 1:
            found[line] = namesakes[0]
    return found
