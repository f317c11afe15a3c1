"""Sources of the images of a split: a folder, tar shards, or several sources; list files are in lists.py."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from fastreid.data.datasets.bases import DatasetError
from fastreid.data.scan import images_below
from fastreid.data.shards import ShardError, index_shards
from fastreid.structures import View
from fastreid.utils.logger import log_once

logger = logging.getLogger(__name__)


class MissingImages(DatasetError):
    """The folder, the list file or listed images of a split are missing."""


@dataclass(frozen=True)
class Entry:
    """An image file, and the numbers that its list file has for it; arguments of a benchmark's reader."""

    path: Path
    numbers: tuple[int, ...] = ()


class Source:
    """The source of the images of one split.

    Attributes:
        views: the only views it may have; None allows all.
    """

    views: frozenset[View] | None = None

    @property
    def name(self) -> str:
        """The source in messages."""
        raise NotImplementedError

    def is_there(self, home: Path) -> bool:
        """Whether the source exists below `home`."""
        raise NotImplementedError

    def entries(self, home: Path) -> list[Entry]:
        """The images.

        Raises:
            MissingImages: there are no images, or some are missing.
        """
        raise NotImplementedError

    def paths(self, home: Path) -> list[Path]:
        """The image files without their numbers."""
        return [entry.path for entry in self.entries(home)]


@dataclass(frozen=True)
class Folder(Source):
    """Every image below a sub-folder of the benchmark, at any depth, in sorted order.

    Attributes:
        folder: name of the sub-folder.
        views: the only views it may have; None allows all.
    """

    folder: str
    views: frozenset[View] | None = None

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder

    def is_there(self, home: Path) -> bool:
        """Whether the folder exists."""
        return (home / self.name).is_dir()

    def entries(self, home: Path) -> list[Entry]:
        """The images below the folder."""
        found = images_below(home / self.name)
        if not found:
            raise MissingImages(f"no images in {home / self.name}")
        return [Entry(path) for path in found]


@dataclass(frozen=True)
class Shards(Source):
    """The images of all tar files in a sub-folder of the benchmark, sorted by their names in the tar files.

    Attributes:
        folder: name of the sub-folder.
    """

    folder: str

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder

    def is_there(self, home: Path) -> bool:
        """Whether the folder exists."""
        return (home / self.folder).is_dir()

    def entries(self, home: Path) -> list[Entry]:
        """The images in the tar files."""
        place = home / self.folder
        try:
            shards = index_shards(place)
        except ShardError as error:
            raise DatasetError(str(error)) from error
        found = sorted((member, tar) for tar, shard in shards.items() for member in shard.members)
        if not found:
            raise MissingImages(f"no tar files with images in {place}")
        return [Entry(place / tar / member) for member, tar in found]


@dataclass(frozen=True)
class Concatenated(Source):
    """The images of several sources, one after the other."""

    parts: tuple[Source, ...]

    @property
    def name(self) -> str:
        """The names of all parts."""
        return " and ".join(part.name for part in self.parts)

    def is_there(self, home: Path) -> bool:
        """Whether all parts exist."""
        return all(part.is_there(home) for part in self.parts)

    def entries(self, home: Path) -> list[Entry]:
        """The images of all parts."""
        return [entry for part in self.parts for entry in part.entries(home)]


@dataclass(frozen=True)
class FirstOf(Source):
    """The first of several sources that exists; the first of all if none does."""

    forms: tuple[Source, ...]

    @property
    def name(self) -> str:
        """The names of all sources."""
        return " or ".join(form.name for form in self.forms)

    def is_there(self, home: Path) -> bool:
        """Whether any of the sources exists."""
        return any(form.is_there(home) for form in self.forms)

    def entries(self, home: Path) -> list[Entry]:
        """The images of the first source that exists."""
        there = [form for form in self.forms if form.is_there(home)] or [self.forms[0]]
        if others := " and ".join(form.name for form in there[1:]):
            log_once(logger, logging.INFO, f"{home}: {there[0].name} is read; {others} could be read instead")
        return there[0].entries(home)
