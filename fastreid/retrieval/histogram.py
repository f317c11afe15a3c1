"""Counting pairs by distance while they go by: a histogram, and exact numbers at the distances asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from fastreid.utils.counts import thread_count

NUM_BINS = 128
_AT_ONCE = 1 << 22  # distances: bounds torch's temporaries to some 100 MiB


class PairCounter:
    """How many distances lie in each of many equal bins, and how many at most at each threshold.

    The list of all pairs is never held. Distances are float32; those outside of the bounds count in the first or last
    bin.
    """

    def __init__(
        self, thresholds: ArrayLike, bounds: tuple[float, float], *, num_bins: int = NUM_BINS, num_threads: int = 0
    ) -> None:
        """Args:
        thresholds: at which exact numbers are wanted, ascending.
        bounds: of the bins.
        num_threads: torch's for 0.
        """
        self.edges = np.linspace(*bounds, num_bins + 1)
        self._thresholds = np.ascontiguousarray(thresholds, dtype=np.float32)
        self._options = (*bounds, num_bins)
        self._num_threads = thread_count(num_threads)
        self._parts: dict[str, Any] = {}

    def add(self, distances: np.ndarray | Tensor, sign: int = 1) -> None:
        """Count distances of any shape, on any device, in, or with sign -1 out."""
        if isinstance(distances, Tensor) and distances.device.type != "cpu":
            self._on(str(distances.device)).add(distances.flatten(), sign)
        else:
            self.on_cpu.add(np.ascontiguousarray(distances, dtype=np.float32).ravel(), sign)

    @property
    def on_cpu(self) -> Any:
        """What counts there: the compiled kernels' own, which they can be handed."""
        return self._on("cpu")

    def read(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """int64 [bins], then int64 [thresholds] twice: distances in each bin, at most at each threshold, and at it."""
        found = [part.read() for part in self._parts.values()] or [self.on_cpu.read()]
        bins, at_most, at = (sum(counts) for counts in zip(*found, strict=True))
        return bins, at_most, at

    def _on(self, device: str) -> Any:
        if device not in self._parts:
            self._parts[device] = self._made_for(device)
        return self._parts[device]

    def _made_for(self, device: str) -> Any:
        if device == "cpu":
            try:
                from fastreid.retrieval.rank_cylib.rank_cy import Histogram
            except Exception:  # one that was built for other versions raises anything
                pass
            else:
                return Histogram(self._thresholds, *self._options, self._num_threads)
        return _TorchHistogram(self._thresholds, *self._options, device)


class _TorchHistogram:
    """The same counts by torch, on any device."""

    def __init__(self, thresholds: np.ndarray, low: float, high: float, num_bins: int, device: str) -> None:
        self._thresholds = torch.from_numpy(thresholds).to(device)
        self._low, self._scale, self._num_bins = low, num_bins / (high - low), num_bins
        self._bins = torch.zeros(num_bins, dtype=torch.int64, device=device)
        self._steps = torch.zeros(len(thresholds) + 1, dtype=torch.int64, device=device)
        self._ties = torch.zeros_like(self._steps)

    def add(self, distances: np.ndarray | Tensor, sign: int = 1) -> None:
        for some in torch.as_tensor(distances).split(_AT_ONCE):
            place = ((some - self._low) * self._scale).clamp(0, self._num_bins - 1).long()
            self._bins += sign * torch.bincount(place, minlength=self._num_bins)
            step = torch.searchsorted(self._thresholds, some)
            self._steps += sign * torch.bincount(step, minlength=len(self._steps))
            if len(self._thresholds):
                at = self._thresholds[step.clamp_max(len(self._thresholds) - 1)] == some
                self._ties += sign * torch.bincount(step[at], minlength=len(self._ties))

    def read(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return tuple(counts.cpu().numpy() for counts in (self._bins, self._steps[:-1].cumsum(0), self._ties[:-1]))
