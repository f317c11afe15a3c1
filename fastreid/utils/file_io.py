"""File operations of fast-reid's `PathManager`, on local paths."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import IO, Any

from fastreid.utils.errors import ArgumentError

_SCHEME = "://"

AnyPath = str | os.PathLike[str]


class LocalPaths:
    """The methods of the `PathManager` of fast-reid (iopath) that its users call, for local paths only.

    `~` at the beginning of a path is the home folder. Nothing is downloaded.
    """

    def open(self, path: AnyPath, mode: str = "r", buffering: int = -1, **options: Any) -> IO[Any]:
        """Open a file, as the built-in `open`; text is UTF-8 unless `encoding` is given.

        Args:
            path: the file.
            mode: as for `open`.
            buffering: as for `open`.
            options: further arguments of `open`.

        Raises:
            ArgumentError: the path is a URL.
        """
        if "b" not in mode:
            options.setdefault("encoding", "utf-8")
        return _local(path).open(mode, buffering, **options)

    def exists(self, path: AnyPath) -> bool:
        """Return whether there is a file or folder of this name."""
        return _local(path).exists()

    def isfile(self, path: AnyPath) -> bool:
        """Return whether the path is a file."""
        return _local(path).is_file()

    def isdir(self, path: AnyPath) -> bool:
        """Return whether the path is a folder."""
        return _local(path).is_dir()

    def ls(self, path: AnyPath) -> list[str]:
        """Return the names in a folder, sorted."""
        return sorted(os.listdir(_local(path)))

    def mkdirs(self, path: AnyPath) -> None:
        """Create a folder, and those above it, where they are missing."""
        _local(path).mkdir(parents=True, exist_ok=True)

    def rm(self, path: AnyPath) -> None:
        """Remove a file."""
        _local(path).unlink()

    def copy(self, src_path: AnyPath, dst_path: AnyPath, overwrite: bool = False) -> bool:
        """Copy a file, and return True.

        Args:
            src_path: the file.
            dst_path: its copy.
            overwrite: whether an existing file may be replaced.

        Raises:
            FileExistsError: the copy exists and may not be replaced.
        """
        target = _local(dst_path)
        if target.exists() and not overwrite:
            raise FileExistsError(f"{target} exists; give overwrite=True to replace it")
        shutil.copyfile(_local(src_path), target)
        return True

    def get_local_path(self, path: AnyPath, force: bool = False) -> str:
        """Return the path itself, which is local.

        Args:
            path: the path.
            force: download again; it must be False, as nothing is downloaded.
        """
        if force:
            raise ArgumentError(
                f"get_local_path({os.fspath(path)!r}, force=True): nothing is downloaded, so leave it out"
            )
        return str(_local(path))

    def register_handler(self, handler: object, allow_override: bool = False) -> None:
        """Raise an error: other kinds of paths than local ones are not supported."""
        raise ArgumentError(
            f"PathManager.register_handler({type(handler).__name__}): only local paths are read, so there are no "
            "handlers; copy the files to a local folder first"
        )


def _local(path: AnyPath) -> Path:
    text = os.fspath(path)
    if _SCHEME in text:
        raise ArgumentError(f"{text} is a URL, and nothing is downloaded: download it, and give the path of the file")
    return Path(text).expanduser()


PathManager = LocalPaths()
"""fast-reid's name for the object with these methods."""
