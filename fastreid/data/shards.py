"""Images in tar shards (WebDataset): a path goes through the tar file, as in shards/000002.tar/00012_c0_s1_0003.jpg.

An index of the positions of all images is stored beside the shards, so that they are read in any order, as files are.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import posixpath
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastreid.data.formats import image_suffixes
from fastreid.utils.errors import UserError
from fastreid.utils.files import atomic_write

logger = logging.getLogger(__name__)

INDEX = "index.json"
_PATH = re.compile(r"(?P<tar>.+?\.tar)[/\\](?P<member>.+)", re.DOTALL)
_OPEN_FILES = 64  # of a process


class ShardError(UserError, OSError):
    """A shard that is missing, damaged, or not the one of the index."""


@dataclass(frozen=True)
class Shard:
    """A tar file of images.

    Attributes:
        size: its number of bytes.
        members: name of an image -> position of its content, and number of bytes.
    """

    size: int
    members: Mapping[str, tuple[int, int]]


def read_from_shard(path: str) -> bytes | None:
    """The content of an image in a shard; None if no part of the path is a tar file.

    Args:
        path: path of the tar file, followed by the name of the image in it.

    Raises:
        FileNotFoundError: the tar file has no such image.
        ShardError: the tar file is damaged.
    """
    if (place := _find(path)) is None:
        return None
    tar, member, position, length = place
    content = _read(_open(tar), position, length)
    if len(content) < length:
        raise ShardError(f"{tar} is damaged: it ends before {member} does. Copy it again")
    return content


def is_in_shard(path: str) -> bool:
    """Whether a path is that of an image in a tar file that can be read."""
    try:
        return _find(path) is not None
    except OSError:
        return False


def _find(path: str) -> tuple[str, str, int, int] | None:
    """Tar file, name, position and number of bytes of an image."""
    match = _PATH.fullmatch(path)
    if match is None or not _is_file(match["tar"]):
        return None
    tar, member = match["tar"], match["member"]
    folder, name = os.path.split(tar)
    shard = read_index(folder).get(name) or _scan(tar)
    if member not in shard.members:
        raise FileNotFoundError(2, "there is no such image in the shard", path)
    return tar, member, *shard.members[member]


def index_shards(folder: str | os.PathLike[str]) -> dict[str, Shard]:
    """Return the shards of a folder by name, as `index.json` has them; write it if it is missing.

    Args:
        folder: the folder, with tar files.

    Raises:
        ShardError: a shard of the index is missing or has another size, or a tar file is damaged.
    """
    for forget in (read_index, _scan, _open, _is_file):
        forget.cache_clear()
    found = read_index(os.fspath(folder))
    if not found:
        found = {path.name: _scan(os.fspath(path)) for path in sorted(Path(folder).glob("*.tar"))}
        _store(found, Path(folder))
    for name, shard in found.items():
        _check(Path(folder) / name, shard)
    return found


def write_index(folder: str | os.PathLike[str]) -> None:
    """Write the index of all tar files of a folder.

    Raises:
        ShardError: a tar file is damaged.
        DiskError: the disk is full.
    """
    _dump(_scan_all(folder), Path(folder))


def has_index(folder: str | os.PathLike[str]) -> bool:
    """Whether the index of a folder is that of its tar files as they are now.

    Args:
        folder: the folder, with tar files.

    Raises:
        ShardError: a tar file is damaged.
    """
    read_index.cache_clear()
    try:
        found = read_index(os.fspath(folder))
    except ShardError:
        return False
    return found == _scan_all(folder)


def _scan_all(folder: str | os.PathLike[str]) -> dict[str, Shard]:
    return {path.name: scan_shard(os.fspath(path)) for path in sorted(Path(folder).glob("*.tar"))}


def _dump(shards: Mapping[str, Shard], folder: Path) -> None:
    with atomic_write(folder / INDEX) as file:
        json.dump({name: [shard.size, shard.members] for name, shard in shards.items()}, file)


@functools.lru_cache(maxsize=16)
def read_index(folder: str) -> dict[str, Shard]:
    """The shards in the index of a folder; none if it has no index.

    Raises:
        ShardError: the index is damaged.
    """
    path = os.path.join(folder, INDEX)
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        return {
            name: Shard(size, {member: (start, length) for member, (start, length) in members.items()})
            for name, (size, members) in content.items()
        }
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ShardError(f"{path} is damaged ({error}): delete it, and it is made again from the tar files") from error


def _store(shards: Mapping[str, Shard], folder: Path) -> None:
    """Write an index of shards that came without; only a warning if the folder cannot be written to."""
    if not shards:
        return
    try:
        _dump(shards, folder)
    except OSError as error:
        logger.warning("%s cannot be written (%s): the shards are scanned in every run", folder / INDEX, error)


def _check(path: Path, shard: Shard) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise ShardError(
            f"{path} is missing: {INDEX} beside it has {len(shard.members):,} images of this shard. Copy it again"
        ) from None
    if size != shard.size:
        raise ShardError(
            f"{path} has {size:,} bytes, where {INDEX} beside it has {shard.size:,}: the shard is damaged or another "
            f"one. Copy it again, or delete {INDEX} if it was replaced on purpose"
        )


def scan_shard(path: str) -> Shard:
    """Find the images of a tar file, as it is now.

    Args:
        path: the tar file.

    Raises:
        FileNotFoundError: there is no such file.
        ShardError: it is damaged.
    """
    suffixes = image_suffixes()
    try:
        with tarfile.open(path, "r:") as file:
            found = {
                posixpath.normpath(member.name): (member.offset_data, member.size)
                for member in file
                if member.isfile() and os.path.splitext(member.name)[1].lower() in suffixes
            }
    except tarfile.TarError as error:
        raise ShardError(f"{path} is damaged or no tar file ({error}): copy it again") from error
    return Shard(os.path.getsize(path), found)


_scan = functools.lru_cache(maxsize=1024)(scan_shard)


class _OpenFile:
    """An open file, which is closed when it is not used any more."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


@functools.lru_cache(maxsize=_OPEN_FILES)
def _open(path: str) -> _OpenFile:
    """Open a shard once in a process, as opening takes long on network file systems."""
    return _OpenFile(path)


def _read(file: _OpenFile, position: int, length: int) -> bytes:
    if hasattr(os, "pread"):  # without a common position: threads and forked workers may share the file
        return os.pread(file.descriptor, length, position)
    with open(file.path, "rb") as own:
        own.seek(position)
        return own.read(length)


@functools.lru_cache(maxsize=4096)
def _is_file(path: str) -> bool:
    return os.path.isfile(path)
