"""What happened in training: scalars collected per step, and results per evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Record = dict[str, Any]
"""A flat line of metrics.json: "iteration" (number done so far), "epoch" (from 0), then numbers."""


class EventStorage:
    """Collects scalars between two writes; a record holds their means over those steps."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._totals: dict[str, float] = {}
        self._results: Record = {}

    def put_scalars(self, **scalars: float) -> None:
        """Add one step's value of each named scalar."""
        for name, value in scalars.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)
            self._counts[name] = self._counts.get(name, 0) + 1

    def put_totals(self, **totals: float) -> None:
        """Set counts of the whole run; from now on they are in every record."""
        self._totals.update(totals)

    def pop_means(self) -> Record:
        """Return each scalar's mean since the last call, in the order they came, and the totals; forget the scalars."""
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means | self._totals

    def put_results(self, results: Mapping[str, Mapping[str, float]]) -> None:
        """Keep an evaluation {protocol: {measure: value}} as "protocol/measure"."""
        self._results = {
            f"{protocol}/{measure}": value
            for protocol, measures in results.items()
            for measure, value in measures.items()
        }

    def pop_results(self) -> Record:
        """Return the results put since the last call ({} of none) and forget them."""
        results, self._results = self._results, {}
        return results
