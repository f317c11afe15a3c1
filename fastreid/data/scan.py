"""Image files below a folder: found in sorted order on any tree, and a count of all that is left out, by reason."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from fastreid.data.datasets.bases import DatasetError
from fastreid.data.formats import image_suffixes
from fastreid.utils.plain import shortened

logger = logging.getLogger(__name__)

# What systems leave behind: folders of thumbnails and file attributes, and files beside images.
LITTER_NAMES = frozenset({"@eaDir", "__MACOSX", "lost+found", "Thumbs.db", "desktop.ini"})
_SHOWN, _LONGEST = 5, 300  # reasons are listed with so many cases; paths are cut to so many letters
HIDDEN, LITTER = "hidden entries (names that start with a dot)", "entries left behind by systems"
OTHER, BROKEN, IRREGULAR = "files with other suffixes", "links to nothing", "entries that are no regular files"
AGAIN, EMPTY = "links to folders that are read already", "empty folders that are named as images"
_EXPECTED = frozenset({HIDDEN, LITTER})


@dataclass
class Scan:
    """What is below a folder.

    Attributes:
        home: the folder.
        images: the image files, in sorted order.
        left_out: reason -> what is left out for it, as paths; of files that are not named as images, their suffixes.
    """

    home: Path
    images: list[Path] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, reason: str, what: str) -> None:
        """Count one."""
        self.left_out.setdefault(reason, []).append(what)

    def tell(self) -> None:
        """Log what was left out, once for all scans that find the same: a warning if it could have been images."""
        for level, reasons in (
            (logging.WARNING, self.left_out.keys() - _EXPECTED),
            (logging.INFO, self.left_out.keys() & _EXPECTED),
        ):
            if reasons:
                parts = [self._counted(reason, self.left_out[reason]) for reason in sorted(reasons)]
                tell_once(logger, level, f"{self.home}: skipped {'; '.join(parts)}")

    def _counted(self, reason: str, cases: list[str]) -> str:
        if reason == OTHER:
            counts = {case: cases.count(case) for case in sorted(set(cases))}
            parts = [f"{case or 'no suffix'} ({count:,})" for case, count in list(counts.items())[: 4 * _SHOWN]]
            more = len(counts) - len(parts)
        else:
            parts = [shown(os.path.relpath(case, self.home)) for case in cases[:_SHOWN]]
            more = len(cases) - len(parts)
        return f"{len(cases):,} {reason}: {', '.join(parts)}{' …' if more else ''}"


def scan(home: Path, without: Collection[str] = ()) -> Scan:
    """Look for image files below a folder, links included; each folder is entered once, however many links lead there.

    Args:
        without: names of folders in `home` that are not looked into.

    Raises:
        DatasetError: a folder or file that the system does not let in; names it.
    """
    found, suffixes, entered = Scan(home), image_suffixes(), set()
    # Links come after all that is really there, so that a folder keeps its own name if a link leads to it, too.
    places, links = [os.fspath(home)], []
    while places or links:
        is_link = not places
        place = links.pop(0) if is_link else places.pop()
        try:
            identity = os.stat(place)
            if (identity.st_dev, identity.st_ino) in entered:
                found.leave_out(AGAIN, place)
                continue
            entered.add((identity.st_dev, identity.st_ino))
            with os.scandir(place) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
            if place == os.fspath(home):
                inside = [entry for entry in inside if entry.name not in without]
            folders = list(_folders(inside, found, suffixes))
            if not inside and _suffix(place) in suffixes:
                found.leave_out(EMPTY, place)
        except OSError as error:
            if place == os.fspath(home) and error.errno in (errno.ENOENT, errno.ENOTDIR):
                break
            raise _shut(error, place) from error
        links += [entry.path for entry in folders if entry.is_symlink()]
        places += [entry.path for entry in reversed(folders) if not entry.is_symlink()]
    found.images.sort()
    return found


def _folders(entries: list[os.DirEntry], found: Scan, suffixes: frozenset[str]) -> Iterator[os.DirEntry]:
    """The folders among the entries of one; its images and what is left out go to `found`."""
    for entry in entries:
        suffix = _suffix(entry.name)
        if is_litter(entry.name):
            found.leave_out(LITTER if entry.name in LITTER_NAMES else HIDDEN, entry.path)
        elif _leads_nowhere(entry):
            found.leave_out(BROKEN, entry.path)
        elif entry.is_dir():
            yield entry
        elif suffix not in suffixes:
            found.leave_out(OTHER, suffix)
        elif entry.is_file():
            found.images.append(Path(entry.path))
        else:
            found.leave_out(IRREGULAR, entry.path)


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def is_litter(name: str) -> bool:
    """Whether files and folders of this name are passed over: hidden, or left behind by a system."""
    return name.startswith(".") or name in LITTER_NAMES


def _leads_nowhere(entry: os.DirEntry) -> bool:
    if not entry.is_symlink():
        return False
    try:
        entry.stat()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        return True
    return False


def _shut(error: OSError, place: str) -> DatasetError:
    what = shown(os.fspath(error.filename or place))
    return DatasetError(
        f"cannot look into {what} ({error.strerror}), so that images may be missing; give this user the right to read "
        "it, or move it away"
    )


def images_below(folder: Path) -> list[Path]:
    """Every image file below a folder, in sorted order; what is left out is logged with its number and reason.

    Raises:
        DatasetError: a folder or file that the system does not let in.
    """
    found = scan(folder)
    found.tell()
    return found.images


def shown(path: str) -> str:
    """A path as messages show it: of a very long one, its two ends."""
    return shortened(path, _LONGEST)


@cache
def tell_once(log: logging.Logger, level: int, sentence: str) -> None:
    """Log a sentence once in the life of the process: protocols of a benchmark share folders."""
    log.log(level, "%s", sentence)
