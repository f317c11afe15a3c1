"""Splits that are listed in a text file, one line for each image."""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastreid.data.benchmarks.sources import Entry, MissingImages, Source
from fastreid.data.scan import scan
from fastreid.structures import View
from fastreid.utils.logger import log_once
from fastreid.utils.text import TextError, read_text

logger = logging.getLogger(__name__)

_SHOWN = 3
NUMBER = re.compile(r"[0-9]{1,18}")  # a person or camera id that fits int64, in ASCII digits


@dataclass(frozen=True)
class Listed(Source):
    r"""The lines of a list file that name queries (their folder's name starts with "query"), or the other lines.

    A line is a path below the benchmark's folder, with / or \; any line endings are read. An image that is not at
    this path is also found elsewhere below the first folder of the path, if exactly one file there has its name.

    Attributes:
        file: name of the list file.
        queries: read the lines that name queries, instead of the others.
        views: the only views of these lines; None allows all.
    """

    file: str
    queries: bool
    views: frozenset[View] | None = None

    @property
    def name(self) -> str:
        """The part and its file, for messages."""
        return f"{'queries' if self.queries else 'gallery'} of {self.file}"

    def is_there(self, home: Path) -> bool:
        """Whether the list file exists."""
        return (home / self.file).is_file()

    def entries(self, home: Path) -> list[Entry]:
        """The listed files, in the order of the lines.

        Raises:
            MissingImages: no such list file, no such lines, or missing images.
        """
        lines = read_lines(home / self.file)
        wanted = [line for line in lines if line and line.startswith("query") == self.queries]
        if not wanted:
            there = f"its first line is {lines[0]!r}" if lines else "it is empty"
            raise MissingImages(
                f"{home / self.file} names no {'query' if self.queries else 'gallery'} images ({there}); lines start "
                "with the folder of their image, and that of queries with 'query'"
            )
        return [Entry(path) for path in find_listed(home, wanted, self.name)]


@dataclass(frozen=True)
class Lines(Source):
    """All lines of a list file: each names an image below one folder, and may have numbers behind the name.

    Attributes:
        files: possible names of the list; the first is the usual one.
        folders: possible names of the folder of its images.
        numbers: number of whole numbers behind the image's name in a line.
        suffix: added to names that have none.
    """

    files: tuple[str, ...]
    folders: tuple[str, ...]
    numbers: int = 0
    suffix: str = ""

    @property
    def name(self) -> str:
        """The usual name of the list file."""
        return self.files[0]

    def is_there(self, home: Path) -> bool:
        """Whether the list file exists."""
        return any((home / file).is_file() for file in self.files)

    def entries(self, home: Path) -> list[Entry]:
        """The listed files in the order of the lines, each with the line's numbers.

        Raises:
            MissingImages: no such list file, lines of another form, or missing images.
        """
        names, numbers = zip(*self.rows(home), strict=True)
        folder = next((folder for folder in self.folders if (home / folder).is_dir()), self.folders[0])
        paths = find_listed(home, [f"{folder}/{name}" for name in names], self.name)
        return [Entry(path, found) for path, found in zip(paths, numbers, strict=True)]

    def rows(self, home: Path) -> list[tuple[str, tuple[int, ...]]]:
        """The image's name and the numbers of each line."""
        file = next((home / file for file in self.files if (home / file).is_file()), home / self.files[0])
        lines = [line for line in read_lines(file) if line]
        if not lines:
            raise MissingImages(f"{file} is empty")
        rows: list[tuple[str, tuple[str, ...]]] = []
        wrong = []
        for line in lines:
            name, *words = line.rsplit(maxsplit=self.numbers)
            if len(words) != self.numbers or not all(map(NUMBER.fullmatch, words)):
                wrong.append(line)
            rows.append((name if Path(name).suffix else name + self.suffix, tuple(words)))
        if wrong:
            raise MissingImages(
                f"{len(wrong):,} of {len(lines):,} lines of {file} are not an image and {self.numbers} whole "
                f"number{'s' * (self.numbers != 1)}, for example {wrong[0]!r}"
            )
        return [(name, tuple(map(int, words))) for name, words in rows]


def read_lines(file: Path) -> list[str]:
    """The lines of a list file, without quotes, leading "./" and backslashes.

    Raises:
        MissingImages: no such file, or not a text file.
    """
    try:
        text = read_text(file)
    except TextError as error:
        raise MissingImages(f"{file} is no text file ({error})") from None
    except OSError as error:
        raise MissingImages(f"no list file {file} ({error.strerror})") from None
    # Not splitlines: a name may contain other characters that Unicode calls line ends.
    lines = re.split(r"\r\n|\r|\n", text) if text else []
    return [line.strip().strip("\"'").replace("\\", "/").removeprefix("./") for line in lines]


def find_listed(home: Path, lines: Sequence[str], name: str) -> list[Path]:
    """The file of each line: at its path below `home`, or the only one of its name below the path's first folder.

    Raises:
        MissingImages: images of the list `name` are missing, or found more than once.
    """
    if repeated := sum(count - 1 for count in Counter(lines).values()):
        log_once(logger, logging.WARNING, f"{home}, {name}: {repeated:,} of {len(lines):,} lines repeat an image")
    found = _find(home, lines)
    for count, why in ((0, "not there"), (2, "there more than once, in other folders than the line says")):
        gone = [line for line in lines if len(found[line][:2]) == count]
        if gone:
            raise MissingImages(
                f"of {len(lines):,} images ({name}) {len(gone):,} are {why}: {', '.join(gone[:_SHOWN])}"
                f"{' …' if len(gone) > _SHOWN else ''}"
            )
    return [found[line][0] for line in lines]


def _find(home: Path, lines: Sequence[str]) -> dict[str, list[Path]]:
    """Line -> the file at its path, or else the files of its name below the path's first folder."""
    # One scan of each folder instead of one system call for each of 50,000 lines.
    below = {top: scan(home / top).images for top in {line.partition("/")[0] for line in lines}}
    exact = {path.relative_to(home).as_posix(): path for paths in below.values() for path in paths}
    by_name: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for top, paths in below.items():
        for path in paths:
            by_name[top, path.name.lower()].append(path)
    return {
        line: [exact[line]] if line in exact else by_name[line.partition("/")[0], line.rpartition("/")[2].lower()]
        for line in lines
    }
