"""Scalars of training steps, and results of evaluations, between two records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Scalars that depend on the machine, not on the run.
_TIMES = ("time", "data_time")

Record = dict[str, Any]
"""A flat line of metrics.json: "iteration" (number done so far), "epoch" (from 0), then numbers."""


class EventStorage:
    """Collects scalars between two records, which hold their means over those steps."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._totals: dict[str, float] = {}
        self._results: Record = {}

    def put_scalars(self, **scalars: float) -> None:
        """Add the value of each named scalar in one step."""
        for name, value in scalars.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)
            self._counts[name] = self._counts.get(name, 0) + 1

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
        return {name: [total, self._counts[name]] for name, total in self._sums.items() if name not in _TIMES}

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
