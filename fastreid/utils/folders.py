"""Atomic writing of folders: a reader sees the whole old folder or the whole new one."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from fastreid.utils.files import explained_disk_errors, sync_folder


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield the path of a new folder that gets the name ``folder`` when the block ends without an error.

    It is ``.NAME.draft`` beside ``folder``, and empty. A folder that exists is replaced. On any error, Ctrl-C included,
    the draft is removed and ``folder`` stays unchanged. The caller holds the lock of ``folder``
    (`fastreid.utils.lock.path_lock`): drafts that a killed process has left are removed.

    Args:
        folder: the folder.

    Raises:
        DiskError: the disk is full, broken or read-only.
    """
    put_back(folder)
    draft, before = _draft(folder), _before(folder)
    _remove(draft, before)
    try:
        with explained_disk_errors(folder):
            draft.mkdir(parents=True)
            yield draft
            if folder.exists():
                folder.rename(before)
            draft.rename(folder)
            sync_folder(folder.parent)
    finally:
        put_back(folder)
        _remove(draft, before)


def put_back(folder: Path) -> None:
    """Give ``folder`` its name again if a process was killed while `atomic_folder` replaced it, else do nothing.

    Args:
        folder: the folder; the caller holds its lock.
    """
    before = _before(folder)
    if before.exists() and not folder.exists():
        before.rename(folder)


def _draft(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.draft")


def _before(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.before")


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
