"""Where records go: the console with its progress bar, metrics.json, TensorBoard."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any, Protocol

from fastreid.utils.events import Record
from fastreid.utils.files import atomic_write
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
    """One JSON object per line, appended to ``path``."""

    def __init__(self, path: str | os.PathLike[str], *, start_iter: int = 0) -> None:
        """Keep the lines up to ``start_iter``; what came after is about to be done again."""
        self._path = Path(path)
        _drop_lines_after(self._path, start_iter)
        self._file = self._path.open("a", encoding="utf-8")

    def write(self, record: Record) -> None:
        """Append the record and flush it, so that a crash loses nothing."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _drop_lines_after(path: Path, iteration: int) -> None:
    """Rewrite ``path`` without lines past ``iteration`` and a half line left by a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if _iteration_of(line) <= iteration]
    if len(kept) == len(lines):
        return
    logger.info("%s: dropped %d lines of after iteration %d", path, len(lines) - len(kept), iteration)
    with atomic_write(path) as file:
        file.writelines(line + "\n" for line in kept)


def _iteration_of(line: str) -> float:
    try:
        return json.loads(line)["iteration"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


class TensorboardWriter:
    """Every number of every record as a TensorBoard scalar over iterations."""

    def __init__(self, folder: str | os.PathLike[str], *, start_iter: int = 0) -> None:
        SummaryWriter = summary_writer()
        self._writer = SummaryWriter(str(folder), purge_step=start_iter + 1 if start_iter else None)

    def write(self, record: Record) -> None:
        """Add the record's scalars at its iteration."""
        for name, value in record.items():
            if name not in _POSITION:
                self._writer.add_scalar(printable(name), value, record["iteration"])

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()
