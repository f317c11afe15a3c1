"""Append-only manifests of a stage: JSON lines that several processes write, each to a file of its own."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fastreid.generation.rows import KEY, Columns, Row, parse_row
from fastreid.utils.files import explained_disk_errors, remove_leftovers
from fastreid.utils.lock import is_locked, path_lock

logger = logging.getLogger(__name__)

_DEAD_SECONDS = 3600  # no file takes so long to write: its process was killed


class Journal:
    """The rows that a stage has finished, in `manifest-*.jsonl` files of its folder.

    Rows are only added. Each writer has a file of its own, so that shards can run at the same time. All files of the
    folder are read, so that a stage can be continued with another number of shards. The last line of a file may be
    incomplete if its writer was killed; it does not count, and the next writer removes it.

    Args:
        folder: the folder of the stage.
        columns: the entries that each row must have, those that identify it included.
    """

    def __init__(self, folder: str | os.PathLike[str], columns: Columns = KEY) -> None:
        self.folder, self._columns = Path(folder), columns

    def rows(self) -> list[Row]:
        """Return the rows of all writers, sorted by their key; of rows with the same key the first one counts.

        Raises:
            JournalError: a line, other than an incomplete last one, is no row; the message names it.
        """
        found: dict[tuple[Any, ...], Row] = {}
        remedy = f"delete {self.folder} to run the stage again"
        for path in sorted(self.folder.glob("manifest-*.jsonl")):
            for number, line in enumerate(_whole_lines(path), start=1):
                row = parse_row(line, self._columns, path, number, remedy)
                found.setdefault(tuple(row[name] for name in KEY), row)
        return [found[key] for key in sorted(found)]

    @contextlib.contextmanager
    def writer(self, shard: str = "1of1") -> Iterator[JournalWriter]:
        """Yield a writer to the file of a shard; only one process can have it.

        Args:
            shard: the name of the shard.

        Raises:
            InUseError: another process writes to this file.
            DiskError: the disk is full or broken.
        """
        path = self._file_of(shard)
        for place in (self.folder, *filter(Path.is_dir, self.folder.glob("*"))):
            remove_leftovers(place, older_than=_DEAD_SECONDS)
        with path_lock(path), explained_disk_errors(path), open(path, "ab+") as file:
            _drop_incomplete_line(file)
            yield JournalWriter(file, path)

    def running(self) -> list[str]:
        """Return the names of the shards that have a writer now, in this process or in another one."""
        locks = [path.name for path in self.folder.glob(".manifest-*.jsonl.lock")]
        names = sorted(name.removeprefix(".manifest-").removesuffix(".jsonl.lock") for name in locks)
        return [name for name in names if is_locked(self._file_of(name))]

    def _file_of(self, shard: str) -> Path:
        return self.folder / f"manifest-{shard}.jsonl"


class JournalWriter:
    """Adds rows to one file.

    Args:
        file: opened for appending.
        path: its path, for messages.
    """

    def __init__(self, file: Any, path: Path) -> None:
        self._file, self._path = file, path

    def add(self, *rows: Mapping[str, Any]) -> None:
        """Add rows; they are on the disk when it returns.

        Raises:
            DiskError: the disk is full; the file then ends before these rows.
        """
        end = self._file.seek(0, os.SEEK_END)
        content = "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows)
        try:
            with explained_disk_errors(self._path):
                self._file.write(content.encode())
                self._file.flush()
                os.fsync(self._file.fileno())
        except BaseException:
            with contextlib.suppress(OSError):
                self._file.truncate(end)
            raise


def _whole_lines(path: Path) -> list[bytes]:
    content = path.read_bytes()
    return content[: content.rfind(b"\n") + 1].splitlines()


def _drop_incomplete_line(file: Any) -> None:
    file.seek(0)
    content = file.read()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        logger.warning("%s: its last line is incomplete and is removed, as its writer was stopped", file.name)
        file.truncate(end)
