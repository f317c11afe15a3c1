"""HistoryBuffer: the values of one scalar over a run."""

from __future__ import annotations

from collections import deque
from itertools import islice

import numpy as np

_KEPT = 20_000  # a run may have millions of iterations, and windows are far smaller


class HistoryBuffer:
    """The last 20,000 values of one scalar, and the mean of all of them; the methods are fast-reid's."""

    def __init__(self) -> None:
        self._values: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        self._total, self._count = 0.0, 0

    def update(self, value: float, iteration: float | None = None) -> None:
        """Append a value.

        Args:
            value: the value.
            iteration: its iteration; by default the number of values before it.
        """
        self._values.append((value, self._count if iteration is None else iteration))
        self._total += value
        self._count += 1

    def latest(self) -> float:
        """Return the last value."""
        return self._values[-1][0]

    def median(self, window_size: int) -> float:
        """Return the median of the last values."""
        return float(np.median(self._last(window_size)))

    def avg(self, window_size: int) -> float:
        """Return the mean of the last values."""
        return float(np.mean(self._last(window_size)))

    def global_avg(self) -> float:
        """Return the mean of all values, those included that are no longer kept."""
        return self._total / self._count

    def values(self) -> list[tuple[float, float]]:
        """Return the values that are kept, each with its iteration."""
        return list(self._values)

    def _last(self, count: int) -> list[float]:
        return [value for value, _ in islice(reversed(self._values), count)]
