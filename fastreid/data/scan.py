"""Find image files below a folder, in sorted order, and count what is skipped, by reason."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fastreid.data.datasets.bases import DatasetError
from fastreid.data.formats import image_suffixes
from fastreid.utils.display_text import shortened
from fastreid.utils.logger import log_once

logger = logging.getLogger(__name__)

# Files and folders that operating systems create beside images, such as thumbnails.
LITTER_NAMES = frozenset({"@eaDir", "__MACOSX", "lost+found", "Thumbs.db", "desktop.ini"})
_SHOWN, _LONGEST = 5, 300  # cases listed per reason; characters shown of a path
HIDDEN, LITTER = "hidden entries (names that start with a dot)", "entries created by operating systems"
OTHER, BROKEN, IRREGULAR = "files with other suffixes", "broken links", "entries that are not regular files"
VISITED, EMPTY = "links to folders that were already read", "empty folders with the name of an image"
_EXPECTED = frozenset({HIDDEN, LITTER})


@dataclass
class Scan:
    """The files below a folder.

    Attributes:
        home: the folder.
        images: the image files, in sorted order.
        skipped: reason -> paths of what was skipped; for files with other suffixes, the suffixes.
    """

    home: Path
    images: list[Path] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=dict)

    def skip(self, reason: str, case: str) -> None:
        """Add a path, or a suffix, to a reason."""
        self.skipped.setdefault(reason, []).append(case)

    def log(self) -> None:
        """Log what was skipped, once for all scans with the same result; a warning if it may have been images."""
        for level, reasons in (
            (logging.WARNING, self.skipped.keys() - _EXPECTED),
            (logging.INFO, self.skipped.keys() & _EXPECTED),
        ):
            if reasons:
                parts = [self._counted(reason, self.skipped[reason]) for reason in sorted(reasons)]
                log_once(logger, level, f"{self.home}: skipped {'; '.join(parts)}")

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
    """Find image files below a folder. Links are followed; each folder is read once, even if several links lead to it.

    Args:
        home: the folder.
        without: names of folders in `home` that are not read.

    Raises:
        DatasetError: the system denies access to a folder or file.
    """
    found, suffixes, entered = Scan(home), image_suffixes(), set()
    # Links come last, so that a folder is found under its own path even if a link leads to it.
    places, links = [os.fspath(home)], list[str]()
    while places or links:
        place = places.pop() if places else links.pop(0)
        try:
            identity = os.stat(place)
            if (identity.st_dev, identity.st_ino) in entered:
                found.skip(VISITED, place)
                continue
            entered.add((identity.st_dev, identity.st_ino))
            with os.scandir(place) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
            if place == os.fspath(home):
                inside = [entry for entry in inside if entry.name not in without]
            folders = list(_folders(inside, found, suffixes))
            if not inside and _suffix(place) in suffixes:
                found.skip(EMPTY, place)
        except OSError as error:
            if place == os.fspath(home) and error.errno in (errno.ENOENT, errno.ENOTDIR):
                break
            raise _access_error(error, place) from error
        links += [entry.path for entry in folders if entry.is_symlink()]
        places += [entry.path for entry in reversed(folders) if not entry.is_symlink()]
    found.images.sort()
    return found


def _folders(entries: list[os.DirEntry], found: Scan, suffixes: frozenset[str]) -> Iterator[os.DirEntry]:
    """Yield the folders among the entries of a folder; images and skipped entries go to `found`."""
    for entry in entries:
        suffix = _suffix(entry.name)
        if is_hidden_or_system(entry.name):
            found.skip(LITTER if entry.name in LITTER_NAMES else HIDDEN, entry.path)
        elif _is_broken_link(entry):
            found.skip(BROKEN, entry.path)
        elif entry.is_dir():
            yield entry
        elif suffix not in suffixes:
            found.skip(OTHER, suffix)
        elif entry.is_file():
            found.images.append(Path(entry.path))
        else:
            found.skip(IRREGULAR, entry.path)


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def is_hidden_or_system(name: str) -> bool:
    """Whether files and folders of this name are skipped: hidden, or created by an operating system."""
    return name.startswith(".") or name in LITTER_NAMES


def _is_broken_link(entry: os.DirEntry) -> bool:
    if not entry.is_symlink():
        return False
    try:
        entry.stat()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        return True
    return False


def _access_error(error: OSError, place: str) -> DatasetError:
    what = shown(os.fspath(error.filename or place))
    return DatasetError(
        f"cannot look into {what} ({error.strerror}), so that images may be missing; give this user the right to read "
        "it, or move it away"
    )


def images_below(folder: Path) -> list[Path]:
    """Every image file below a folder, in sorted order. Skipped files are counted in the log, by reason.

    Raises:
        DatasetError: the system denies access to a folder or file.
    """
    found = scan(folder)
    found.log()
    return found.images


def shown(path: str) -> str:
    """A path as messages show it; a very long one is shortened in the middle."""
    return shortened(path, _LONGEST)
