"""Writers of records: console with progress bar, metrics.json, TensorBoard."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from fastreid.utils.display_text import printable
from fastreid.utils.events import Record
from fastreid.utils.files import atomic_write, explained_disk_errors
from fastreid.utils.optional import summary_writer
from fastreid.utils.timing import format_seconds

logger = logging.getLogger(__name__)

_POSITION = ("iteration", "epoch")
_OWN_COLUMN = (*_POSITION, "lr", "time", "data_time", "eta_seconds")


class Writer(Protocol):
    """Writes training records and evaluation records (those with "protocol/measure" keys)."""

    def write(self, record: Record) -> None:
        """Write one record."""

    def close(self) -> None:
        """Close the writer; nothing is written afterwards."""


class ConsoleWriter:
    """Logs a line per record; on a terminal it shows a progress bar too.

    Args:
        max_iter: iterations of the whole run.
        max_epoch: epochs of the whole run.
        start_iter: the first iteration.
    """

    def __init__(self, *, max_iter: int, max_epoch: int, start_iter: int = 0) -> None:
        self._max_iter, self._max_epoch = max_iter, max_epoch
        self._bar = _progress_bar(max_iter, start_iter) if sys.stderr.isatty() else None

    def write(self, record: Record) -> None:
        """Log losses, learning rate, speed and time left; evaluation records are skipped."""
        if "total_loss" not in record:
            return
        if self._bar is not None:
            self._bar.update(record["iteration"] - self._bar.n)
            self._bar.set_postfix_str(f"epoch {record['epoch'] + 1}, loss {record['total_loss']:.3f}")
        # On a terminal the bar shows it, and the line goes to the log file only.
        logger.log(logging.INFO if self._bar is None else logging.DEBUG, self.line(record))

    def line(self, record: Record) -> str:
        """Format one training record as a line."""
        losses = "  ".join(f"{k}: {v:.4g}" for k, v in record.items() if k not in _OWN_COLUMN)
        return (
            f"epoch {record['epoch'] + 1}/{self._max_epoch}  "
            f"iter {record['iteration']}/{self._max_iter}  "
            f"eta {format_seconds(record['eta_seconds'])}  {losses}  lr: {record['lr']:.3g}  "
            f"time: {record['time']:.3f} s  data: {record['data_time']:.3f} s"
        )

    def close(self) -> None:
        """Close the progress bar."""
        if self._bar is not None:
            self._bar.close()


def _progress_bar(total: int, start: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, initial=start, unit="it", dynamic_ncols=True, desc="training")


class JSONWriter:
    """Appends one JSON object per line; a repeated evaluation replaces the earlier one.

    Args:
        path: the file.
        start_iter: the iteration from which the run is resumed; later lines are dropped.
    """

    def __init__(self, path: str | os.PathLike[str], *, start_iter: int = 0) -> None:
        self._path, self._start_iter = Path(path), start_iter
        lines = _drop_lines_after(self._path, start_iter)
        self._last = [json.loads(line) for line in lines if start_iter and _iteration_of(line) == start_iter]
        self._file = self._open()

    def last_records(self, *, evaluations: bool = True) -> list[Record]:
        """Return the records at ``start_iter`` from before the run was resumed, with or without ``evaluations``."""
        return [record for record in self._last if evaluations or not _is_evaluation(record)]

    def _open(self) -> Any:
        with explained_disk_errors(self._path):
            return self._path.open("ab", buffering=0)

    def write(self, record: Record) -> None:
        """Append the record and flush it to the disk, so that a crash loses nothing.

        Raises:
            DiskError: the disk is full or broken; the file ends with the previous record.
        """
        if _is_evaluation(record) and record["iteration"] == self._start_iter:
            self._replace(record)
            return
        line, end = json.dumps(record).encode() + b"\n", self._file.seek(0, os.SEEK_END)
        try:
            with explained_disk_errors(self._path):
                _write_whole(self._file, line)
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(end)
            raise

    def _replace(self, record: Record) -> None:
        """Replace earlier evaluation records of the same iteration, atomically."""
        self._file.close()
        lines = self._path.read_bytes().splitlines(keepends=True)
        is_earlier = [_is_evaluation(old) and old["iteration"] == record["iteration"] for old in map(json.loads, lines)]
        with atomic_write(self._path, "wb") as file:
            file.writelines(line for line, earlier in zip(lines, is_earlier, strict=True) if not earlier)
            file.write(json.dumps(record).encode() + b"\n")
        self._file = self._open()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _write_whole(file: Any, line: bytes) -> None:
    # Without a buffer, a part may be written before the disk is full.
    while line:
        line = line[file.write(line) :]
    os.fsync(file.fileno())


def _is_evaluation(record: Record) -> bool:
    return "lr" not in record  # which every training record has


def _drop_lines_after(path: Path, iteration: int) -> list[str]:
    """Rewrite ``path`` without lines after ``iteration`` and an incomplete line of a crash; return its lines."""
    with explained_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    kept = [line for line in text.splitlines() if _iteration_of(line) <= iteration]
    new = "".join(line + "\n" for line in kept)
    if new != text:
        dropped = len(text.splitlines()) - len(kept)
        logger.info("%s: dropped %d lines: after iteration %d, or incomplete", path, dropped, iteration)
        with atomic_write(path) as file:
            file.write(new)
    return kept


def _iteration_of(line: str) -> float:
    try:
        return float(json.loads(line)["iteration"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class TensorboardWriter:
    """Writes every number of every record as a TensorBoard scalar over iterations.

    TensorBoard drops whole iterations, ``start_iter`` and all later ones, so the records of ``start_iter`` are written
    again.

    Args:
        folder: folder of the event files.
        start_iter: the iteration from which the run is resumed.
        written: records at ``start_iter`` from before the run was resumed.
    """

    def __init__(self, folder: str | os.PathLike[str], *, start_iter: int = 0, written: Sequence[Record] = ()) -> None:
        self._folder = Path(folder)
        # Its thread passes errors on to this one; they must not be printed as well.
        self._hook = threading.excepthook
        threading.excepthook = self._of_thread
        try:
            with explained_disk_errors(self._folder):
                self._writer = self._later_writer(start_iter)
        except BaseException:
            threading.excepthook = self._hook
            raise
        for record in written:
            self.write(record)

    def _later_writer(self, start_iter: int) -> Any:
        """Open a file that TensorBoard reads after those that are there: it reads them in the order of their names.

        A name ends with the second, the process and a count. Within one second, file 10 would come before file 9.
        """
        SummaryWriter = summary_writer()
        before = set(self._folder.glob("events.out.tfevents.*"))
        purge_step = start_iter if start_iter or before else None
        writer = SummaryWriter(str(self._folder), purge_step=purge_step)
        made = set(self._folder.glob("events.out.tfevents.*")) - before
        if before and made and min(made) < max(before):
            writer.close()
            for path in made:
                path.unlink()
            time.sleep(1)
            writer = SummaryWriter(str(self._folder), purge_step=purge_step)
        return writer

    def _of_thread(self, error: Any) -> None:
        is_passed_on = isinstance(error.exc_value, OSError) and type(error.thread).__module__.startswith("tensorboard")
        if not is_passed_on:
            self._hook(error)

    def write(self, record: Record) -> None:
        """Add the record's scalars at its iteration and flush them.

        Raises:
            DiskError: the disk is full or broken.
        """
        with explained_disk_errors(self._folder):
            for name, value in record.items():
                if name not in _POSITION:
                    self._writer.add_scalar(printable(name), value, record["iteration"])
            self._writer.flush()

    def close(self) -> None:
        """Flush and close the event file."""
        try:
            with explained_disk_errors(self._folder):
                self._writer.close()
        finally:
            threading.excepthook = self._hook
