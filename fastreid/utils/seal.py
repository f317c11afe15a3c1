"""Checkpoint files with a checksum over all of their bytes, which torch reads like any other.

torch.save writes a zip archive. The checksums of the archive cover the tensors, but not its directory, which says where
they are. An archive may end with a comment, which torch ignores; here it is the CRC-32 of all bytes before it.
"""

from __future__ import annotations

import os
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, cast

import torch

from fastreid.utils.files import atomic_write

_MARK = b"fastreid crc-32 "
_DIGITS = 8
_LENGTH = len(_MARK) + _DIGITS
# The end record of a zip archive without a comment; its last two bytes are the length of the comment.
_END_LENGTH, _END_MARK = 22, b"PK\x05\x06"
_MOST_COMMENT = 0xFFFF
_BLOCK = 1 << 20
_ADVICE = (
    "Earlier checkpoints are unchanged: free some space (SOLVER.KEEP_CHECKPOINTS keeps fewer) and continue with "
    "--resume"
)


def save_sealed(content: Any, path: str | os.PathLike[str], *, advice: str = _ADVICE) -> None:
    """``torch.save`` that writes the file completely or not at all, with a checksum over it.

    Args:
        content: what to save.
        path: the file.
        advice: what to do about a full disk, for the error message.

    Raises:
        DiskError: the disk is full or broken; an earlier file at ``path`` is unchanged.
    """
    with atomic_write(path, "wb", advice=advice) as file:
        sealing = _Sealing(file)
        try:
            torch.save(content, cast(IO[bytes], sealing))  # torch calls `write` and `flush` only
        except RuntimeError:
            if sealing.error is None:
                raise
            raise sealing.error from None  # the error of torch's writer hides the reason
        sealing.finish()


class _Sealing:
    """A file to which torch writes an archive; ``finish`` appends the checksum as the comment of the archive.

    Args:
        file: the file that is written.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._checksum = file, 0
        self._held = b""  # it may be the end record, in which the length of the comment must be set
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Write data, and update the checksum."""
        if len(data) < _END_LENGTH:
            both = self._held + bytes(data)
            self._put(both[:-_END_LENGTH])
            self._held = both[-_END_LENGTH:]
        else:
            self._put(self._held)
            self._put(memoryview(data)[:-_END_LENGTH])
            self._held = bytes(data[-_END_LENGTH:])
        return len(data)

    def flush(self) -> None:
        """Do nothing: the end record must wait for ``finish``."""

    def _put(self, data: bytes | memoryview) -> None:
        self._checksum = zlib.crc32(data, self._checksum)
        try:
            self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def finish(self) -> None:
        """Write the end record and the checksum."""
        if not self._held.startswith(_END_MARK):
            raise RuntimeError("this version of torch does not end a file with the end record of a zip archive")
        self._put(self._held[:-2] + struct.pack("<H", _LENGTH) + _MARK)
        self._file.write(checksum_text(self._checksum))


def checksum_text(checksum: int) -> bytes:
    """Return a CRC-32 as eight hexadecimal digits."""
    return f"{checksum:0{_DIGITS}x}".encode()


def is_sealed(path: str | os.PathLike[str]) -> bool:
    """Whether a file was written by `save_sealed`, even if its checksum is damaged, truncated, or not at its end."""
    tail = _tail(Path(path), _END_LENGTH + _MOST_COMMENT)
    end = tail.rfind(_END_MARK)
    record, comment = (tail[end : end + _END_LENGTH], tail[end + _END_LENGTH :]) if end >= 0 else (b"", b"")
    says_so = len(record) == _END_LENGTH and record[-2:] == struct.pack("<H", _LENGTH)
    return says_so or _is_like_mark(comment) or _is_like_mark(tail[-_LENGTH:])


def _is_like_mark(comment: bytes) -> bool:
    """Whether it begins with the mark, or differs in one byte."""
    return len(comment) >= len(_MARK) and sum(a != b for a, b in zip(comment, _MARK, strict=False)) <= 1


def damage_in(path: str | os.PathLike[str]) -> str:
    """Return what is wrong with a checkpoint file of this library, "" if it is intact.

    All bytes of a file are compared with its checksum. Files of earlier versions have none; the checksums of the
    archive are compared instead.
    """
    path = Path(path)
    try:
        if not path.is_file():
            return "it is gone"
        if is_sealed(path):
            return "" if ends_with_its_checksum(path) else "it is not what was written: its checksum differs"
        return _damage_of_archive(path)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"


def _tail(path: Path, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - length))
        return file.read()


def ends_with_its_checksum(path: Path) -> bool:
    """Whether a file ends with the `checksum_text` of all bytes before it."""
    with path.open("rb") as file:
        checksum = _checksum(file, path.stat().st_size - _DIGITS)
        return file.read() == checksum_text(checksum)


def checksum_of(path: str | os.PathLike[str]) -> str:
    """Return the CRC-32 that a file of `save_sealed` ends with; other files are read to compute it."""
    path = Path(path)
    if is_sealed(path):
        return _tail(path, _DIGITS).decode(errors="replace")
    with path.open("rb") as file:
        return checksum_text(_checksum(file, path.stat().st_size)).decode()


def _checksum(file: IO[bytes], left: int) -> int:
    """The CRC-32 of the next bytes of a file."""
    checksum = 0
    while left > 0 and (block := file.read(min(_BLOCK, left))):
        checksum, left = zlib.crc32(block, checksum), left - len(block)
    return checksum


def _damage_of_archive(path: Path) -> str:
    end = _tail(path, _END_LENGTH)
    if not end.startswith(_END_MARK) or end[-2:] != b"\0\0":
        return "it is truncated or no checkpoint"
    try:
        with zipfile.ZipFile(path) as archive:
            if any(part.external_attr or part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                return "its directory is not what was written"
            broken = archive.testzip()
    except Exception as error:  # a damaged directory can make zipfile raise anything
        return f"it is truncated or no checkpoint ({error})"
    return f"{broken} in it is not what was written" if broken else ""


def plain_values(value: Any, *, where: str) -> Any:
    """Return ``value`` with plain dicts.

    Raises:
        TypeError: a value that loading with weights_only would refuse.
    """
    if isinstance(value, dict):
        return {
            plain_values(key, where=where): plain_values(item, where=f"{where}/{key}") for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        kind = list if isinstance(value, list) else tuple
        return kind(plain_values(item, where=where) for item in value)
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, str):
        return sys.intern(str(value))  # pickle writes each string once: equal content gives equal bytes
    # number(value): a NumPy float is a float, but pickles as an object.
    for number in (bool, int, float):
        if isinstance(value, number):
            return number(value)
    if value is None:
        return None
    raise TypeError(f"{where} is a {type(value).__name__}; checkpoints hold tensors and plain types only")
