"""What happened in training: scalars collected per step, and results per evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What depends on the machine's clock, not on the run.
_TIMES = ("time", "data_time")

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

    def state(self) -> dict[str, list[float]]:
        """{scalar: [sum, count]} since the last record, without times: a resumed run then writes the same records."""
        return {name: [total, self._counts[name]] for name, total in self._sums.items() if name not in _TIMES}

    def load_state(self, state: Mapping[str, list[float]]) -> None:
        """Go on from what ``state`` returned."""
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
        """Return the results put since the last call ({} of none) and forget them."""
        results, self._results = self._results, {}
        return results
