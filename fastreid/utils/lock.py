"""Locks on folders and files: while one process writes, others raise an error that names it.

The operating system keeps the lock (flock, or msvcrt on Windows) and releases it when the process ends, even by
SIGKILL.
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
from fastreid.utils.files import check_output, remove_leftovers

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

NAME = ".fastreid.lock"
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
_BUSY = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}
_POLL_SECONDS = 0.2


class InUseError(UserError, RuntimeError):
    """A folder or file that another process writes to; the message names the process, its host and start time."""


class NotWritableError(UserError, OSError):
    """A folder that cannot be created or written to."""


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
    """Lock ``folder`` for the block; the process itself may lock it several times.

    Args:
        folder: the folder; it is created if it does not exist.
        wait: wait until another process has released it, instead of raising an error.

    Raises:
        InUseError: another process has the lock.
        NotWritableError: the folder cannot be created or written to.
    """
    acquire(folder, wait=wait)
    try:
        yield
    finally:
        release(folder)


@contextlib.contextmanager
def path_lock(*targets: str | os.PathLike[str] | None, wait: bool = False) -> Iterator[None]:
    """Lock files, or folders that are written under another name and renamed, for the block.

    A file in a folder that another process has locked, such as the OUTPUT_DIR of a run, counts as locked.

    Args:
        targets: the files and folders; None is skipped.
        wait: wait until another process has released them, instead of raising an error.

    Raises:
        InUseError: another process has a lock.
        NotWritableError: a folder cannot be created or written to.
        OutputError: a target is a device, a pipe or a socket.
    """
    for target in targets:
        if target:
            check_output(os.path.expanduser(target))
    with contextlib.ExitStack() as held:
        # In sorted order, so that two processes cannot wait for each other.
        for target in sorted({os.path.realpath(os.path.expanduser(target)) for target in targets if target}):
            path = Path(target)
            whole = _lock_of_folder(path.parent)
            if whole.exists():
                _acquire(whole, path.parent, wait=wait)
                held.callback(_release, whole)
            lock = _lock_of_file(path)
            if _acquire(lock, path, wait=wait):
                remove_leftovers(path.parent, names={path.name})
            held.callback(_release, lock)
        yield


def is_locked(target: str | os.PathLike[str]) -> bool:
    """Whether this process or another one has the lock of `path_lock` on a file."""
    path = Path(os.path.realpath(os.path.expanduser(target)))
    lock = _lock_of_file(path)
    with _guard:
        if os.path.realpath(lock) in _held:
            return True
    if not lock.exists():
        return False
    try:
        with path_lock(path):  # of a process that was killed
            return False
    except InUseError:
        return True


def _lock_of_folder(folder: Path) -> Path:
    return folder / NAME


def _lock_of_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def acquire(folder: str | os.PathLike[str], *, wait: bool = False) -> None:
    """Lock ``folder`` until `release`, or until this process ends; see `folder_lock`."""
    folder = Path(folder).expanduser()
    _acquire(_lock_of_folder(folder), folder, wait=wait)


def release(folder: str | os.PathLike[str]) -> None:
    """Undo one `acquire` of ``folder``; the last one releases the lock and removes the lock file."""
    _release(_lock_of_folder(Path(folder).expanduser()))


def _acquire(path: Path, what: Path, *, wait: bool) -> bool:
    """Lock a file; return whether this process did not have it before."""
    _make_folder(path.parent)
    key, is_logged = os.path.realpath(path), False
    while True:
        with _guard:
            if key in _held:
                _held[key].count += 1
                return False
            descriptor = _try(path, what)
            if descriptor is not None:
                _held[key] = _Held(path, descriptor)
                return descriptor >= 0
        if not wait:
            raise InUseError(f"{_sentence(what, path)}. Wait until it has ended, stop it, or name another place")
        if not is_logged:
            logger.warning("%s: waiting until it has ended", _sentence(what, path))
            is_logged = True
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
                    "%s is on a file system without locks (%s): make sure that only one process writes there",
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
    """Describe the holder of the lock; it may write its description a moment after locking."""
    for _ in range(10):
        try:
            holder = json.loads(path.read_text(encoding="utf-8"))
            return (
                f"{what} is in use by process {holder['pid']} on {holder['host']}, started {holder['started']}: "
                f"{holder['command']}"
            )
        except (OSError, ValueError, KeyError, TypeError):
            time.sleep(0.02)
    return f"{what} is in use by another process, which is not named in {path}"


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
    # Removed before it is unlocked: processes that have it open notice in `_is_the_file`, later ones create a new one.
    with contextlib.suppress(OSError):
        held.path.unlink()
    with contextlib.suppress(OSError):
        os.close(held.descriptor)


def _release_all() -> None:
    with _guard:
        while _held:
            _drop(_held.popitem()[1])


def _forget_in_child() -> None:
    """Close the lock files in a forked data worker, which would keep the lock of a parent that has died."""
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
