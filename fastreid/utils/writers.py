"""Where records go: the console with its progress bar, metrics.json, TensorBoard."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from fastreid.utils.events import Record
from fastreid.utils.files import atomic_write, explained_disk_errors
from fastreid.utils.optional import summary_writer
from fastreid.utils.plain import printable
from fastreid.utils.timing import format_seconds

logger = logging.getLogger(__name__)

_POSITION = ("iteration", "epoch")
_OWN_COLUMN = (*_POSITION, "lr", "time", "data_time", "eta_seconds")


class Writer(Protocol):
    """Takes training records and evaluation records (those with "protocol/measure" keys)."""

    def write(self, record: Record) -> None:
        """Put one record where it belongs."""

    def close(self) -> None:
        """Finish; nothing is written afterwards."""


class ConsoleWriter:
    """A progress bar on a terminal, and a line per record in the log (elsewhere: lines only)."""

    def __init__(self, *, max_iter: int, max_epoch: int, start_iter: int = 0) -> None:
        self._max_iter, self._max_epoch = max_iter, max_epoch
        self._bar = _progress_bar(max_iter, start_iter) if sys.stderr.isatty() else None

    def write(self, record: Record) -> None:
        """Log the losses, rate, speed and time left; evaluations log their own table elsewhere."""
        if "total_loss" not in record:
            return
        if self._bar is not None:
            self._bar.update(record["iteration"] - self._bar.n)
            self._bar.set_postfix_str(f"epoch {record['epoch'] + 1}, loss {record['total_loss']:.3f}")
        # The bar says it on the terminal; the log file still gets the line.
        logger.log(logging.INFO if self._bar is None else logging.DEBUG, self.line(record))

    def line(self, record: Record) -> str:
        """One training record as a line."""
        losses = "  ".join(f"{k}: {v:.4g}" for k, v in record.items() if k not in _OWN_COLUMN)
        return (
            f"epoch {record['epoch'] + 1}/{self._max_epoch}  "
            f"iter {record['iteration']}/{self._max_iter}  "
            f"eta {format_seconds(record['eta_seconds'])}  {losses}  lr: {record['lr']:.3g}  "
            f"time: {record['time']:.3f} s  data: {record['data_time']:.3f} s"
        )

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


def _progress_bar(total: int, start: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, initial=start, unit="it", dynamic_ncols=True, desc="training")


class JSONWriter:
    """One JSON object per line, appended to ``path``; of an evaluation that is done again only the last one stays."""

    def __init__(self, path: str | os.PathLike[str], *, start_iter: int = 0) -> None:
        """Keep the lines up to ``start_iter``; what came after is about to be done again."""
        self._path, self._start_iter = Path(path), start_iter
        lines = _drop_lines_after(self._path, start_iter)
        self._last = [json.loads(line) for line in lines if start_iter and _iteration_of(line) == start_iter]
        self._file = self._open()

    def last_records(self, *, evaluations: bool = True) -> list[Record]:
        """Those at ``start_iter`` that were there when the run was resumed; with ``evaluations`` among them or not."""
        return [record for record in self._last if evaluations or not _is_evaluation(record)]

    def _open(self) -> Any:
        with explained_disk_errors(self._path):
            return self._path.open("ab", buffering=0)

    def write(self, record: Record) -> None:
        """Append the record and flush it to the disk, so that a crash loses nothing.

        Raises:
            DiskError: the disk is full or broken; the file ends with the record before.
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
        """Write an evaluation record in place of earlier ones of the same iteration, in one piece."""
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
    # Without a buffer, a disk that gets full takes a part; the rest then fails.
    while line:
        line = line[file.write(line) :]
    os.fsync(file.fileno())


def _is_evaluation(record: Record) -> bool:
    return "lr" not in record  # which every training record has


def _drop_lines_after(path: Path, iteration: int) -> list[str]:
    """Rewrite ``path`` without lines past ``iteration`` and a half line left by a crash; return its lines."""
    with explained_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    kept = [line for line in text.splitlines() if _iteration_of(line) <= iteration]
    new = "".join(line + "\n" for line in kept)
    if new != text:
        dropped = len(text.splitlines()) - len(kept)
        logger.info("%s: dropped %d lines: of later than iteration %d, or not whole", path, dropped, iteration)
        with atomic_write(path) as file:
            file.write(new)
    return kept


def _iteration_of(line: str) -> float:
    try:
        return float(json.loads(line)["iteration"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class TensorboardWriter:
    """Every number of every record as a TensorBoard scalar over iterations."""

    def __init__(self, folder: str | os.PathLike[str], *, start_iter: int = 0, written: Sequence[Record] = ()) -> None:
        """``written``: records at ``start_iter`` that a resumed run goes on from.

        TensorBoard drops whole iterations, ``start_iter`` and all after it, so these are written again.
        """
        SummaryWriter = summary_writer()
        self._folder = Path(folder)
        # Its thread passes errors on to this one, which need not hear of them twice.
        self._hook = threading.excepthook
        threading.excepthook = self._of_thread
        is_used = any(self._folder.glob("events.out.tfevents.*"))
        try:
            with explained_disk_errors(self._folder):
                self._writer = SummaryWriter(str(folder), purge_step=start_iter if start_iter or is_used else None)
        except BaseException:
            threading.excepthook = self._hook
            raise
        for record in written:
            self.write(record)

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
