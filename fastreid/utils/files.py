"""Atomic writing of files: a reader sees the old content or the new one, never a part of it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
import time
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from fastreid.utils.errors import UserError

_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk is full for this user (a quota)"}
_BROKEN = {errno.EIO: "the disk reports an error", errno.EROFS: "the disk is read-only"}
_ADVICE = "Earlier files are unchanged: free some space and run the command again, a training with --resume"
# Messages about a full disk of libraries that hide the error number of the system.
_SAYS_FULL = re.compile(r"No space left on device|os error 28|Disk quota exceeded|os error 122", re.IGNORECASE)
# A file system takes 255, and temporary files and locks have longer names.
_LONGEST_NAME = 240
_LEFTOVER = re.compile(r"\.(.+)\.[a-z0-9_]{8}\.tmp")


class DiskError(UserError, OSError):
    """A file that could not be written because of the disk; `errno` is the error number of the system."""

    def __str__(self) -> str:
        return str(self.args[1])


class IsAFolderError(UserError, IsADirectoryError):
    """A folder at the path where a file should be written."""

    def __str__(self) -> str:
        return str(self.args[1])


class OutputError(UserError, ValueError):
    """A path that a command must not write to: it is an input of the command, or no regular file."""


def check_output(output: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]] = ()) -> None:
    """Check that a file may be written, before the work that leads to it.

    Args:
        output: the file that will be written.
        inputs: files that the same command reads; those that do not exist are skipped.

    Raises:
        OutputError: ``output`` is a device or a pipe, or one of the inputs, also by another name or a link; or its name
            is too long.
    """
    if len(os.fsencode(os.path.basename(output))) > _LONGEST_NAME:
        raise OutputError(f"the name of {os.fspath(output)} is too long: at most {_LONGEST_NAME} bytes can be written")
    if not os.path.lexists(output):
        return
    if _is_special(output):
        raise OutputError(f"{os.fspath(output)} is a device, a pipe or a socket, and not a file: name a file")
    for path in inputs:
        if os.path.exists(path) and os.path.exists(output) and os.path.samefile(path, output):
            raise OutputError(
                f"{os.fspath(output)} would be overwritten, but this command also reads it: name another file"
            )


def _is_special(path: str | os.PathLike[str]) -> bool:
    """Whether a path is neither a file nor a folder; /dev/stdout is not either, even if it leads to a file."""
    place = os.path.abspath(path)
    return place.startswith(("/dev/std", "/dev/fd/", "/proc/")) or (
        os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)
    )


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "w", *, advice: str = _ADVICE) -> Iterator[IO[Any]]:
    """Yield a file that replaces ``path`` when the block ends without an error.

    The content is written to a temporary file in the same folder (created if it does not exist), flushed to disk and
    renamed to ``path``; then the folder is flushed, so that the new name is on the disk too. On any error, Ctrl-C
    included, the temporary file is removed and ``path`` stays unchanged. A symbolic link stays one: the file that it
    leads to is replaced. Text is UTF-8.

    Args:
        path: the file.
        mode: "w" for text, "wb" for bytes.
        advice: what to do about a full disk, for the error message.

    Raises:
        DiskError: the disk is full, broken or read-only.
        IsAFolderError: ``path`` is a folder; nothing is written.
        OutputError: ``path`` is a device, a pipe or a socket.
        ValueError: ``mode`` is neither ``"w"`` nor ``"wb"``.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"atomic_write mode must be 'w' or 'wb', got {mode!r}")
    check_output(path)
    target = Path(os.path.realpath(path) if os.path.islink(path) else path)
    if target.is_dir():
        sentence = f"{target} is a folder, but a file should be written there: name a file, or move the folder away"
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
    """Replace errors of the block that a full or broken disk has caused; other errors are not changed.

    Args:
        path: the file or folder that is written, for the message.
        advice: what to do about a full disk, for the message.

    Raises:
        DiskError: instead of the error of the system, or of a library that reported it in another way.
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
    """The error for a file that could not be written because of the error ``number`` of the system."""
    if number in _FULL:
        what = f"{_FULL[number]} ({_free_mib(Path(path)):,.0f} MiB are free). {advice}"
    else:
        what = f"{_BROKEN[number]} ({os.strerror(number)}). Check the disk; earlier files are unchanged"
    return DiskError(number, f"{os.fspath(path)} could not be written: {what}")


def _number_of(error: Exception) -> int | None:
    """The error number of the system if the disk has caused the error, otherwise None."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in _FULL | _BROKEN else None
    return errno.ENOSPC if _SAYS_FULL.search(str(error)) else None


def _free_mib(path: Path) -> float:
    """Free space on the disk of ``path``, which need not exist."""
    path = path.absolute()
    folder = next((place for place in (path, *path.parents) if place.is_dir()), Path("/"))
    return shutil.disk_usage(folder).free / 2**20


def sync_folder(folder: Path) -> None:
    """Flush a folder to disk, so that a rename in it survives a power failure; do nothing if that is not supported."""
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
    """Write a Pillow image completely or not at all, in the format of the file name's extension.

    Args:
        picture: the image.
        path: the file.
        options: further arguments of `PIL.Image.Image.save`.

    Raises:
        DiskError: the disk is full or broken.
        ValueError: no format has this extension.
    """
    from PIL import Image

    kind = Image.registered_extensions().get(Path(path).suffix.lower())
    if kind is None:
        raise ValueError(f"{os.fspath(path)}: pictures are written as .jpg, .png, .webp and others; name one of these")
    with atomic_write(path, "wb") as file:
        picture.save(file, format=kind, **options)


def remove_leftovers(
    folder: str | os.PathLike[str], *, older_than: float = 0, names: Container[str] | None = None
) -> list[str]:
    """Delete the temporary files that a process killed in ``atomic_write`` has left; return their names.

    Args:
        folder: the folder; it need not exist.
        older_than: age in seconds of the files that are deleted. 0, for all, is only safe if no other process writes to
            the folder at the same time.
        names: as `find_leftovers`.
    """
    removed, latest = [], time.time() - older_than
    for path in find_leftovers(folder, names):
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            if not older_than or path.stat().st_mtime < latest:
                path.unlink()
                removed.append(path.name)
    return removed


def find_leftovers(folder: str | os.PathLike[str], names: Container[str] | None = None) -> list[Path]:
    """Return the temporary files that ``atomic_write`` has now in a folder, or that a killed process has left there.

    Args:
        folder: the folder; it need not exist.
        names: only those of files with these names; None for all.
    """
    found = []
    for path in sorted(Path(folder).glob(".*.tmp")):
        match = _LEFTOVER.fullmatch(path.name)
        if match and (names is None or match[1] in names) and path.is_file() and not path.is_symlink():
            found.append(path)
    return found


def _mode_for(target: Path) -> int:
    """Permission bits of the file that is replaced, otherwise the default ones: files of mkstemp are private."""
    try:
        return target.stat().st_mode & 0o777
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask
