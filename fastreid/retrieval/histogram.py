"""Histogram of pair distances that are added block by block, with exact counts at given thresholds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from fastreid.utils.counts import thread_count

NUM_BINS = 128
_CHUNK = 1 << 22  # distances: bounds torch's temporaries to some 100 MiB


class PairCounter:
    """Counts how many distances lie in each of many equal bins, and how many are at most each threshold.

    The list of all pairs is never stored. Distances are float32; those outside of the bounds count in the first or last
    bin.
    """

    def __init__(
        self, thresholds: ArrayLike, bounds: tuple[float, float], *, num_bins: int = NUM_BINS, num_threads: int = 0
    ) -> None:
        """Initialize a counter without distances.

        Args:
            thresholds: where exact counts are wanted, ascending.
            bounds: bounds of the bins.
            num_bins: number of bins.
            num_threads: 0 for torch's number.
        """
        self.edges = np.linspace(*bounds, num_bins + 1)
        self._thresholds = np.ascontiguousarray(thresholds, dtype=np.float32)
        self._bounds, self._num_bins = bounds, num_bins
        self._num_threads = thread_count(num_threads)
        self._counters: dict[str, Any] = {}  # by device

    def add(self, distances: np.ndarray | Tensor, sign: int = 1) -> None:
        """Add distances of any shape on any device; with sign -1 subtract them."""
        if isinstance(distances, Tensor) and distances.device.type != "cpu":
            self._counter(str(distances.device)).add(distances.flatten(), sign)
        else:
            self.on_cpu.add(np.ascontiguousarray(distances, dtype=np.float32).ravel(), sign)

    @property
    def on_cpu(self) -> Any:
        """The counter of the CPU; where the extension is compiled, kernels can add to it directly."""
        return self._counter("cpu")

    def read(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the counts in each bin, int64 [bins], then at most at and exactly at each threshold, int64 [T]."""
        found = [counter.read() for counter in self._counters.values()] or [self.on_cpu.read()]
        bins, at_most, equal = (sum(counts) for counts in zip(*found, strict=True))
        return bins, at_most, equal

    def _counter(self, device: str) -> Any:
        if device not in self._counters:
            self._counters[device] = self._build_counter(device)
        return self._counters[device]

    def _build_counter(self, device: str) -> Any:
        if device == "cpu":
            try:
                from fastreid.retrieval.rank_cylib.rank_cy import Histogram
            except Exception:  # an extension that was built for other versions raises anything
                pass
            else:
                return Histogram(self._thresholds, *self._bounds, self._num_bins, self._num_threads)
        return _TorchHistogram(self._thresholds, *self._bounds, self._num_bins, device)


class _TorchHistogram:
    """The same counts by torch, on any device."""

    def __init__(self, thresholds: np.ndarray, low: float, high: float, num_bins: int, device: str) -> None:
        self._thresholds = torch.from_numpy(thresholds).to(device)
        self._low, self._scale, self._num_bins = low, num_bins / (high - low), num_bins
        self._bins = torch.zeros(num_bins, dtype=torch.int64, device=device)
        self._steps = torch.zeros(len(thresholds) + 1, dtype=torch.int64, device=device)
        self._ties = torch.zeros_like(self._steps)

    def add(self, distances: np.ndarray | Tensor, sign: int = 1) -> None:
        for chunk in torch.as_tensor(distances).split(_CHUNK):
            place = ((chunk - self._low) * self._scale).clamp(0, self._num_bins - 1).long()
            self._bins += sign * torch.bincount(place, minlength=self._num_bins)
            step = torch.searchsorted(self._thresholds, chunk)
            self._steps += sign * torch.bincount(step, minlength=len(self._steps))
            if len(self._thresholds):
                is_tie = self._thresholds[step.clamp_max(len(self._thresholds) - 1)] == chunk
                self._ties += sign * torch.bincount(step[is_tie], minlength=len(self._ties))

    def read(self) -> tuple[np.ndarray, ...]:
        return tuple(counts.cpu().numpy() for counts in (self._bins, self._steps[:-1].cumsum(0), self._ties[:-1]))
