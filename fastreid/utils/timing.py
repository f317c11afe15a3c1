"""Median time per step, and formatting of durations."""

from __future__ import annotations

from collections import deque


class RunningMedian:
    """Median of the last values, so that one slow step (an evaluation) does not change an ETA.

    Args:
        window: number of values.
    """

    def __init__(self, window: int = 50) -> None:
        self._values: deque[float] = deque(maxlen=window)

    def add(self, value: float) -> None:
        """Append a value, dropping the oldest of a full window."""
        self._values.append(value)

    @property
    def median(self) -> float:
        """The lower median, or 0 of no values."""
        if not self._values:
            return 0.0
        return sorted(self._values)[(len(self._values) - 1) // 2]


def format_seconds(seconds: float) -> str:
    """``seconds`` as "0:42", "12:05", "3:04:05" or "2 days, 3:04:05"."""
    total = max(0, round(seconds))
    days, rest = divmod(total, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, secs = divmod(rest, 60)
    clock = f"{hours}:{minutes:02d}:{secs:02d}" if days or hours else f"{minutes}:{secs:02d}"
    return f"{days} day{'s' if days > 1 else ''}, {clock}" if days else clock
