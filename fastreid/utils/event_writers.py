"""Writers of fast-reid for plain training loops: each `write()` reads the storage of the training that runs."""

from __future__ import annotations

import json
import logging
import os
from abc import ABC, abstractmethod
from collections import defaultdict
from pathlib import Path

import torch

from fastreid.utils.event_storage import TIMES, EventStorage, get_event_storage
from fastreid.utils.files import explained_disk_errors
from fastreid.utils.optional import summary_writer
from fastreid.utils.timing import format_seconds

logger = logging.getLogger(__name__)


class EventWriter(ABC):
    """Base class of writers that read `get_event_storage()`."""

    @abstractmethod
    def write(self) -> None:
        """Write what is new in the storage."""

    def close(self) -> None:  # noqa: B027 - most writers have nothing to close
        """Close the writer; nothing is written afterwards."""


class CommonMetricPrinter(EventWriter):
    """Logs a line: epoch, iteration, losses, times, learning rate, and memory of the GPU.

    Args:
        max_iter: iterations of the whole run, for the time left.
    """

    def __init__(self, max_iter: int) -> None:
        self._max_iter = max_iter

    def write(self) -> None:
        """Log the line; scalars that are not in the storage are left out."""
        logger.info("%s", self.line(get_event_storage()))

    def line(self, storage: EventStorage) -> str:
        """Format the scalars of a storage as a line."""
        shown = [f"epoch {storage.epoch}  iter {storage.iter}/{self._max_iter}"]
        histories = storage.histories()
        if "time" in histories:
            left = histories["time"].median(1000) * (self._max_iter - storage.iter - 1)
            shown.append(f"eta {format_seconds(left)}")
        shown += [f"{name}: {values.median(200):.4g}" for name, values in histories.items() if "loss" in name]
        shown += [f"{name}: {histories[name].avg(20):.4f} s" for name in TIMES if name in histories]
        if "lr" in histories:
            shown.append(f"lr: {histories['lr'].latest():.3g}")
        if torch.cuda.is_available():
            shown.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB")
        return "  ".join(shown)


class JSONWriter(EventWriter):
    """Appends a line of JSON for each iteration that has new scalars: "iteration", then the scalars by name.

    Args:
        json_file: the file.
        window_size: number of values whose median is written of scalars that are smoothed.
    """

    def __init__(self, json_file: str | os.PathLike[str], window_size: int = 20) -> None:
        self._path, self._window_size, self._last_write = Path(json_file), window_size, -1
        with explained_disk_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8")

    def write(self) -> None:
        """Append the lines and flush them to the disk.

        Raises:
            DiskError: the disk is full or broken.
        """
        lines: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._last_write:
                lines[iteration][name] = value
        with explained_disk_errors(self._path):
            for iteration in sorted(lines):
                self._file.write(json.dumps({"iteration": iteration, **lines[iteration]}) + "\n")
                self._last_write = iteration
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorboardXWriter(EventWriter):
    """Writes scalars, images and histograms of the storage to TensorBoard files.

    Args:
        log_dir: their folder.
        window_size: number of values whose median is written of scalars that are smoothed.
        kwargs: further arguments of `torch.utils.tensorboard.SummaryWriter`.
    """

    def __init__(self, log_dir: str | os.PathLike[str], window_size: int = 20, **kwargs: object) -> None:
        self._folder, self._window_size, self._last_write = Path(log_dir), window_size, -1
        with explained_disk_errors(self._folder):
            self._writer = summary_writer()(str(log_dir), **kwargs)

    def write(self) -> None:
        """Write what is new, and discard the images and histograms of the storage.

        Raises:
            DiskError: the disk is full or broken.
        """
        storage, newest = get_event_storage(), self._last_write
        with explained_disk_errors(self._folder):
            for name, (value, iteration) in storage.latest_with_smoothing_hint(self._window_size).items():
                if iteration > self._last_write:
                    self._writer.add_scalar(name, value, iteration)
                    newest = max(newest, iteration)
            for name, image, iteration in storage.vis_data:
                self._writer.add_image(name, image, iteration)
            for name, values, bins, iteration in storage.histogram_data:
                self._writer.add_histogram(name, values, iteration, bins=bins)
            self._writer.flush()
        self._last_write = newest
        storage.clear_images()
        storage.clear_histograms()

    def close(self) -> None:
        """Flush and close the files."""
        with explained_disk_errors(self._folder):
            self._writer.close()
