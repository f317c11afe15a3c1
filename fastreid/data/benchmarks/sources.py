"""Where the images of a split are found: a folder, or several places; lists.py has the files that list them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from fastreid.data.datasets.bases import DatasetError
from fastreid.data.scan import images_below, tell_once

logger = logging.getLogger(__name__)


class View(IntEnum):
    """From where a person is seen."""

    AERIAL = 0
    GROUND = 1
    WEARABLE = 2


class MissingImages(DatasetError):
    """A split whose folder or list file is not there, or lists images that are not."""


@dataclass(frozen=True)
class Entry:
    """An image file, and the numbers that are said of it beside its name: a benchmark's reader takes both."""

    path: Path
    numbers: tuple[int, ...] = ()


class Source:
    """Where the images of one split are.

    Attributes:
        name: as messages call it.
        views: the only views it may hold; None allows all.
    """

    name: str
    views: frozenset[View] | None = None

    def is_there(self, home: Path) -> bool:
        """Whether `home` has this form of the split."""
        raise NotImplementedError

    def entries(self, home: Path) -> list[Entry]:
        """The images.

        Raises:
            MissingImages: none, or not all that should be there.
        """
        raise NotImplementedError

    def paths(self, home: Path) -> list[Path]:
        """The image files alone."""
        return [entry.path for entry in self.entries(home)]


@dataclass(frozen=True)
class Folder(Source):
    """Every image below a sub-folder of the benchmark, however deep, in sorted order.

    Attributes:
        name: of the sub-folder.
        views: the only views it may hold; None allows all.
    """

    name: str
    views: frozenset[View] | None = None

    def is_there(self, home: Path) -> bool:
        return (home / self.name).is_dir()

    def entries(self, home: Path) -> list[Entry]:
        found = images_below(home / self.name)
        if not found:
            raise MissingImages(f"no images in {home / self.name}")
        return [Entry(path) for path in found]


@dataclass(frozen=True)
class Together(Source):
    """The images of several sources, one after the other."""

    parts: tuple[Source, ...]

    @property
    def name(self) -> str:
        return " and ".join(part.name for part in self.parts)

    def is_there(self, home: Path) -> bool:
        return all(part.is_there(home) for part in self.parts)

    def entries(self, home: Path) -> list[Entry]:
        return [entry for part in self.parts for entry in part.entries(home)]


@dataclass(frozen=True)
class FirstOf(Source):
    """The first of several forms of a split that is there; the first of all if none is."""

    forms: tuple[Source, ...]

    @property
    def name(self) -> str:
        return " or ".join(form.name for form in self.forms)

    def is_there(self, home: Path) -> bool:
        return any(form.is_there(home) for form in self.forms)

    def entries(self, home: Path) -> list[Entry]:
        there = [form for form in self.forms if form.is_there(home)] or [self.forms[0]]
        if others := " and ".join(form.name for form in there[1:]):
            tell_once(logger, logging.INFO, f"{home}: {there[0].name} is read; {others} could be read instead")
        return there[0].entries(home)
