"""Atomic file writing: a reader sees the old content or the new one, never half of it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from fastreid.utils.errors import UserError

_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk is full for this user (a quota)"}
_BROKEN = {errno.EIO: "the disk reports an error", errno.EROFS: "the disk is read-only"}
_ADVICE = "What was there before is as it was: make room and run it again, a training with --resume"
# What libraries that hide the system's error number say of a full disk.
_SAYS_FULL = re.compile(r"No space left on device|os error 28|Disk quota exceeded|os error 122", re.IGNORECASE)
_LEFTOVER = re.compile(r"\.(.+)\.[a-z0-9_]{8}\.tmp")


class DiskError(UserError, OSError):
    """A file that could not be written because of the disk; `errno` is the system's error number."""

    def __str__(self) -> str:
        return str(self.args[1])


class IsAFolderError(UserError, IsADirectoryError):
    """A folder that stands where a file is to be written."""

    def __str__(self) -> str:
        return str(self.args[1])


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "w", *, advice: str = _ADVICE) -> Iterator[IO[Any]]:
    """Yield a file that takes the place of ``path`` when the block ends without an error.

    The content goes to a temporary file in the same folder (made if absent), is flushed to disk and renamed over
    ``path``; then the folder is flushed, so that the new name is on the disk, too. On any error, Ctrl-C included, the
    temporary file is removed and ``path`` is left as it was. Text is UTF-8.

    Args:
        advice: what to do about a full disk, for the error message.

    Raises:
        DiskError: the disk is full, broken or read-only.
        IsAFolderError: ``path`` is a folder; nothing is written.
        ValueError: ``mode`` is neither ``"w"`` nor ``"wb"``.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"atomic_write mode must be 'w' or 'wb', got {mode!r}")
    target = Path(path)
    if target.is_dir():
        sentence = f"{target} is a folder, where a file is to be written: name a file, or move the folder away"
        raise IsAFolderError(errno.EISDIR, sentence)
    with explained_disk_errors(target, advice=advice):
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        try:
            with os.fdopen(descriptor, mode, encoding=None if "b" in mode else "utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, _mode_for(target))
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        sync_folder(target.parent)


@contextlib.contextmanager
def explained_disk_errors(path: str | os.PathLike[str], *, advice: str = _ADVICE) -> Iterator[None]:
    """Turn an error of the block that a full or broken disk caused into one that says so; others pass.

    Args:
        path: the file or folder that is being written, for the message.

    Raises:
        DiskError: instead of the error of the system, or of a library that passed it on in words of its own.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (number := _number_of(error)) is None:
            raise
        raise disk_error(path, number, advice=advice) from error


def disk_error(path: str | os.PathLike[str], number: int, *, advice: str = _ADVICE) -> DiskError:
    """The error for a file that could not be written because of the system's error ``number``."""
    if number in _FULL:
        what = f"{_FULL[number]} ({_free_mib(Path(path)):,.0f} MiB are free). {advice}"
    else:
        what = f"{_BROKEN[number]} ({os.strerror(number)}). Check the disk; what was written before is as it was"
    return DiskError(number, f"{os.fspath(path)} could not be written: {what}")


def _number_of(error: Exception) -> int | None:
    """The system's error number, if it is the disk's fault."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in _FULL | _BROKEN else None
    return errno.ENOSPC if _SAYS_FULL.search(str(error)) else None


def _free_mib(path: Path) -> float:
    """Space left on the disk that ``path`` is, or would be, on."""
    path = path.absolute()
    folder = next((place for place in (path, *path.parents) if place.is_dir()), Path("/"))
    return shutil.disk_usage(folder).free / 2**20


def sync_folder(folder: Path) -> None:
    """Flush a folder to disk, so that a rename in it survives a power cut; where the system can't, do nothing."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(descriptor)


def save_picture(picture: Any, path: str | os.PathLike[str], **options: Any) -> None:
    """Write a Pillow image in one piece, in the format that the name's ending says.

    Raises:
        DiskError: the disk is full or broken.
        ValueError: no format has this ending.
    """
    from PIL import Image

    kind = Image.registered_extensions().get(Path(path).suffix.lower())
    if kind is None:
        raise ValueError(f"{os.fspath(path)}: pictures are written as .jpg, .png, .webp and others; name one of these")
    with atomic_write(path, "wb") as file:
        picture.save(file, format=kind, **options)


def remove_leftovers(folder: str | os.PathLike[str]) -> list[str]:
    """Delete the temporary files that a process killed in ``atomic_write`` left in ``folder``; return their names.

    Only one process may write there meanwhile: the caller.
    """
    removed = []
    for path in Path(folder).glob(".*.tmp"):
        if _LEFTOVER.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)
            removed.append(path.name)
    return sorted(removed)


def _mode_for(target: Path) -> int:
    """Permission bits of the finished file: those of the file it replaces, else the usual ones.

    mkstemp makes files that only their owner can read.
    """
    try:
        return target.stat().st_mode & 0o777
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask
