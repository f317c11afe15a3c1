"""Locks of another process, for tests of tools that write into a folder."""

import contextlib
import fcntl
from pathlib import Path

from fastreid.utils.lock import NAME


@contextlib.contextmanager
def locked_by_another(folder: Path):
    """Lock a folder for the block as another process does: its file is opened once more, and is not known to `lock`.

    Args:
        folder: the folder; it is created if it does not exist.

    Raises:
        BlockingIOError: this process, or another one, has the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / NAME).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    (folder / NAME).unlink()
