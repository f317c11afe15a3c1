"""Locks on folders and files: one process writes, another one is refused and learns which process holds the lock.

The operating system keeps the lock (flock, or msvcrt on Windows) and drops it when the process ends, by SIGKILL too.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import json
import logging
import os
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from fastreid.utils.errors import UserError, sentence_of

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)

NAME = ".fastreid.lock"
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
_BUSY = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}
_POLL_SECONDS = 0.2


class InUseError(UserError, RuntimeError):
    """A folder or file that another process writes to; the message says which process, where, and since when."""


class NotWritableError(UserError, OSError):
    """A folder that cannot be made or written to."""


@dataclass
class _Held:
    """A lock of this process: its open file, and how many blocks hold it."""

    path: Path
    descriptor: int
    count: int = 1


_held: dict[str, _Held] = {}
_guard = threading.RLock()


@contextlib.contextmanager
def folder_lock(folder: str | os.PathLike[str], *, wait: bool = False) -> Iterator[None]:
    """Hold ``folder`` (made if absent) for the block; a process that holds it already goes on.

    Args:
        wait: until the other process is done, instead of raising.

    Raises:
        InUseError: another process holds it.
        NotWritableError: the folder cannot be made or written to.
    """
    acquire(folder, wait=wait)
    try:
        yield
    finally:
        release(folder)


@contextlib.contextmanager
def path_lock(*targets: str | os.PathLike[str] | None, wait: bool = False) -> Iterator[None]:
    """Hold files, or folders that are written beside their place and renamed, for the block; None is skipped.

    A file in a folder that another process holds as a whole, such as the OUTPUT_DIR of a run, counts as held by it.

    Raises:
        InUseError, NotWritableError: as `folder_lock`.
    """
    with contextlib.ExitStack() as held:
        # In one order, so that two processes that want the same two cannot wait for each other.
        for target in sorted({os.path.realpath(os.path.expanduser(target)) for target in targets if target}):
            path = Path(target)
            whole = _lock_of_folder(path.parent)
            if whole.exists():
                _acquire(whole, path.parent, wait=wait)
                held.callback(_release, whole)
            lock = _lock_of_file(path)
            _acquire(lock, path, wait=wait)
            held.callback(_release, lock)
        yield


def _lock_of_folder(folder: Path) -> Path:
    return folder / NAME


def _lock_of_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def acquire(folder: str | os.PathLike[str], *, wait: bool = False) -> None:
    """Hold ``folder`` until `release`, or until this process ends. See `folder_lock`."""
    folder = Path(folder).expanduser()
    _acquire(_lock_of_folder(folder), folder, wait=wait)


def release(folder: str | os.PathLike[str]) -> None:
    """Undo one `acquire` of ``folder``; the last one lets other processes in and removes the lock file."""
    _release(_lock_of_folder(Path(folder).expanduser()))


def _acquire(path: Path, what: Path, *, wait: bool) -> None:
    _make_folder(path.parent)
    key, said = os.path.realpath(path), False
    while True:
        with _guard:
            if key in _held:
                _held[key].count += 1
                return
            descriptor = _try(path, what)
            if descriptor is not None:
                _held[key] = _Held(path, descriptor)
                return
        if not wait:
            raise InUseError(f"{_sentence(what, path)}. Wait until it has ended, stop it, or name another place")
        if not said:
            logger.warning("%s: waiting until it has ended", _sentence(what, path))
            said = True
        time.sleep(_POLL_SECONDS)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotWritableError(sentence_of(error) or f"the folder {folder} cannot be made: {error}") from error


def _try(path: Path, what: Path) -> int | None:
    """The descriptor of the locked file, -1 where files cannot be locked, None if another process holds the lock."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        except OSError as error:
            raise NotWritableError(
                f"the folder {path.parent} cannot be written to: {error.strerror}; name another one"
            ) from error
        try:
            _lock(descriptor)
        except OSError as error:
            os.close(descriptor)
            if error.errno in _BUSY:
                return None
            if error.errno in _UNSUPPORTED:
                logger.warning(
                    "%s is on a file system that has no locks (%s): see to it that only one process writes there",
                    what, error.strerror,
                )  # fmt: skip
                return -1
            raise
        if _is_the_file(descriptor, path):
            _describe(descriptor)
            return descriptor
        os.close(descriptor)  # its holder removed it between our opening and locking it


def _lock(descriptor: int) -> None:
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    import msvcrt

    # Windows forbids reading what is locked: one byte far behind the text.
    os.lseek(descriptor, 2**30, os.SEEK_SET)
    msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)


def _is_the_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _describe(descriptor: int) -> None:
    """Write who holds the lock into its file; a full disk costs only the description."""
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": shlex.join([Path(sys.executable or "python").name, *sys.argv]),
        "started": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
    }
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, json.dumps(holder).encode("utf-8", "backslashreplace"))


def _sentence(what: Path, path: Path) -> str:
    """Who holds the lock; its description may be a moment late."""
    for _ in range(10):
        try:
            holder = json.loads(path.read_text(encoding="utf-8"))
            return (
                f"{what} is in use by process {holder['pid']} on {holder['host']}, started {holder['started']}: "
                f"{holder['command']}"
            )
        except (OSError, ValueError, KeyError, TypeError):
            time.sleep(0.02)
    return f"{what} is in use by another process, which left no name in {path}"


def _release(path: Path) -> None:
    with _guard:
        held = _held.get(os.path.realpath(path))
        if held is None:
            return
        held.count -= 1
        if not held.count:
            del _held[os.path.realpath(path)]
            _drop(held)


def _drop(held: _Held) -> None:
    if held.descriptor < 0:
        return
    # Removed before it is unlocked: whoever opens it later makes a new one, and `_is_the_file` sees to the others.
    with contextlib.suppress(OSError):
        held.path.unlink()
    with contextlib.suppress(OSError):
        os.close(held.descriptor)


def _release_all() -> None:
    with _guard:
        while _held:
            _drop(_held.popitem()[1])


def _forget_in_child() -> None:
    """A forked data worker shares the open file: as long as it lived, so would the lock of a parent that is dead."""
    global _guard
    _guard = threading.RLock()  # another thread may have held it when the process forked
    while _held:
        descriptor = _held.popitem()[1].descriptor
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(descriptor)


atexit.register(_release_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
