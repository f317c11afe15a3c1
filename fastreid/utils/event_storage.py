"""Scalars of training steps, and results of evaluations, between two records."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

from torch import Tensor

from fastreid.utils.history import HistoryBuffer

# Scalars that depend on the machine, not on the run.
TIMES = ("time", "data_time")

Record = dict[str, Any]
"""A flat line of metrics.json: "iteration" (number done so far), "epoch" (from 0), then numbers."""


_active: list[EventStorage] = []


def get_event_storage() -> EventStorage:
    """Return the storage of the training that runs; models and losses put their scalars there.

    Raises:
        RuntimeError: no training runs.
    """
    if not _active:
        raise RuntimeError(
            "there is no EventStorage: call get_event_storage() while a trainer trains, or inside of "
            "`with EventStorage(start_iter):`"
        )
    return _active[-1]


class EventStorage:
    """Collects scalars of a training: their means between two records, and their histories.

    Args:
        start_iter: the first iteration.

    Attributes:
        iter: the current iteration.
        epoch: the current epoch.
        vis_data: images since the last `clear_images`, as (name, tensor, iteration).
        histogram_data: values since the last `clear_histograms`, as (name, tensor, bins, iteration).
    """

    def __init__(self, start_iter: int = 0) -> None:
        self.iter, self.epoch = start_iter, 0
        self.vis_data: list[tuple[str, Tensor, int]] = []
        self.histogram_data: list[tuple[str, Tensor, int, int]] = []
        self._histories: dict[str, HistoryBuffer] = {}
        self._smoothed: dict[str, bool] = {}
        self._latest: dict[str, tuple[float, int]] = {}
        self._scope = ""
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._totals: dict[str, float] = {}
        self._results: Record = {}

    def __enter__(self) -> EventStorage:
        _active.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _active.remove(self)

    @property
    def iteration(self) -> int:
        """`iter`, by another name of fast-reid."""
        return self.iter

    def step(self) -> None:
        """Go on to the next iteration; loops that set `iter` do not call it."""
        self.iter += 1

    def put_scalar(self, name: str, value: float, smoothing_hint: bool = True) -> None:
        """Add the value of a scalar in one step.

        Args:
            name: its name.
            value: its value.
            smoothing_hint: whether writers show the median of its last values, not the last one.
        """
        name, value = f"{self._scope}{name}", float(value)
        self._sums[name] = self._sums.get(name, 0.0) + value
        self._counts[name] = self._counts.get(name, 0) + 1
        self.put_history(name, value, smoothing_hint=smoothing_hint)

    def put_scalars(self, *, smoothing_hint: bool = True, **scalars: float) -> None:
        """Add the value of each named scalar in one step."""
        for name, value in scalars.items():
            self.put_scalar(name, value, smoothing_hint)

    def put_history(self, name: str, value: float, *, smoothing_hint: bool = True) -> None:
        """Add a value to the history of a scalar only, not to the means of records."""
        self._histories.setdefault(name, HistoryBuffer()).update(value, self.iter)
        self._latest[name], self._smoothed[name] = (value, self.iter), smoothing_hint

    @contextlib.contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Put "NAME/" before the names of scalars in the block."""
        before, self._scope = self._scope, f"{name.rstrip('/')}/"
        try:
            yield
        finally:
            self._scope = before

    def history(self, name: str) -> HistoryBuffer:
        """Return the history of a scalar.

        Raises:
            KeyError: it has no value yet.
        """
        if name not in self._histories:
            raise KeyError(f"no scalar {name!r} was put into the storage; there are {', '.join(self._histories)}")
        return self._histories[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        """Return the histories of all scalars."""
        return self._histories

    def smoothing_hints(self) -> dict[str, bool]:
        """Return {scalar: whether writers show its median}."""
        return self._smoothed

    def latest(self) -> dict[str, tuple[float, int]]:
        """Return {scalar: (last value, its iteration)}."""
        return self._latest

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """Return the same, with the median of the last `window_size` values of scalars that are smoothed."""
        return {
            name: (self._histories[name].median(window_size) if self._smoothed[name] else value, iteration)
            for name, (value, iteration) in self._latest.items()
        }

    def put_image(self, img_name: str, img_tensor: Tensor) -> None:
        """Keep an image [C, H, W], uint8 or float in 0..1, for `TensorboardXWriter`."""
        self.vis_data.append((img_name, img_tensor, self.iter))

    def clear_images(self) -> None:
        """Discard the images."""
        self.vis_data = []

    def put_histogram(self, hist_name: str, hist_tensor: Tensor, bins: int = 1000) -> None:
        """Keep values of any shape for a histogram of `TensorboardXWriter`."""
        self.histogram_data.append((hist_name, hist_tensor, bins, self.iter))

    def clear_histograms(self) -> None:
        """Discard the values of histograms."""
        self.histogram_data = []

    def put_totals(self, **totals: float) -> None:
        """Set counts of the whole run, which are in every record from now on."""
        self._totals.update(totals)

    def pop_means(self) -> Record:
        """Return the mean of each scalar since the last call, and the totals; clear the scalars."""
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means | self._totals

    def state(self) -> dict[str, list[float]]:
        """Return {scalar: [sum, count]} since the last record, without times, so that a resumed run writes the same."""
        return {name: [total, self._counts[name]] for name, total in self._sums.items() if name not in TIMES}

    def load_state(self, state: Mapping[str, list[float]]) -> None:
        """Restore what ``state`` returned."""
        self._sums = {name: total for name, (total, _) in state.items()}
        self._counts = {name: int(count) for name, (_, count) in state.items()}

    def put_results(self, results: Mapping[str, Mapping[str, float]]) -> None:
        """Keep an evaluation {protocol: {measure: value}} as "protocol/measure"."""
        self._results = {
            f"{protocol}/{measure}": value
            for protocol, measures in results.items()
            for measure, value in measures.items()
        }

    @property
    def has_results(self) -> bool:
        """Whether there are results that ``pop_results`` would return."""
        return bool(self._results)

    def pop_results(self) -> Record:
        """Return the results since the last call, {} if there are none, and clear them."""
        results, self._results = self._results, {}
        return results
