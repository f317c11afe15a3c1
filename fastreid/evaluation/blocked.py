"""Distances by torch's matrix product, a block of queries at a time: on a GPU, and where the extension is not compiled.

The same figures as `fused`, but for distances that differ in their last bits: a library's product rounds as it likes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from fastreid.evaluation.distances import MEMORY_BUDGET, Distances, rows_within
from fastreid.evaluation.fused import is_available
from fastreid.evaluation.metric import Rows, check_finite, check_pair, metric_named

SEGMENT_ROWS = 16_384  # images that are widened and moved to the device together

# torch 2.9 has a setting for each backend, and refuses to mix it with the older one.
_HAS_PRECISIONS = hasattr(getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision")


class BlockedDistances(Distances):
    """Distances of descriptors [Q, D] and [G, D] on a device; arguments and errors as `fused.rank_features`."""

    def __init__(
        self,
        query: ArrayLike,
        gallery: ArrayLike,
        *,
        metric: str = "cosine",
        memory_budget: float = MEMORY_BUDGET,
        device: str | torch.device = "cpu",
    ) -> None:
        self._metric = metric_named(metric)
        self._query, self._gallery = (x if isinstance(x, Tensor) else np.asanyarray(x) for x in (query, gallery))
        check_pair(self._query, self._gallery)
        self.shape = len(self._query), len(self._gallery)
        self._device = _resolved(device)
        # Where no compiled kernel counts, counting needs twice as much as the distances.
        blocks = 1 if self._device.type == "cpu" and is_available() else 3
        self.rows_at_once = rows_within(memory_budget / blocks, 4 * self.shape[1], max(1, self.shape[0]))
        if self._device.type == "cuda" and 4 * self._gallery.nbytes < torch.cuda.mem_get_info(self._device)[0]:
            self._gallery = on_device(self._gallery, self._device)  # else it is moved for every block of queries

    @property
    def bounds(self) -> tuple[float, float]:
        return self._metric.bounds(max(squares.max(initial=0.0) for squares in self._squares))

    @cached_property
    def _squares(self) -> tuple[np.ndarray, np.ndarray]:
        """Squared lengths of queries and gallery, float64."""
        found = []
        for side, features in (("query image", self._query), ("gallery image", self._gallery)):
            starts = range(0, len(features), SEGMENT_ROWS)
            segments = (on_device(features[start : start + SEGMENT_ROWS], self._device) for start in starts)
            parts = [torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).square().cpu() for rows in segments]
            squares = torch.cat(parts).numpy() if parts else np.zeros(0)
            check_finite(squares, 0, side, self._metric)
            found.append(squares)
        return found[0], found[1]

    @cached_property
    def _scales(self) -> list[Tensor]:
        """Factors and offsets of queries, then of the gallery, on the device."""
        scales = [self._metric.scales_of(squares) for squares in self._squares]
        return [torch.from_numpy(values).to(self._device) for both in scales for values in both]

    def block(self, first: int, stop: int, out: Any = None) -> Tensor:
        factors, offsets, gallery_factors, gallery_offsets = self._scales
        rows = on_device(self._query[first:stop], self._device) * factors[first:stop, None]
        if isinstance(out, np.ndarray):  # somebody needs rows on the CPU
            out = torch.from_numpy(out) if self._device.type == "cpu" else None
        if out is None:
            out = torch.empty(stop - first, self.shape[1], device=self._device)
        with exact_products():
            for start, images in self._segments(self._gallery):
                torch.mm(rows, images.T, out=out[: stop - first, start : start + len(images)])
        out = out[: stop - first]
        if self._metric.normalizes:  # the offsets of all are the same
            return out.mul_(self._metric.slope * gallery_factors).add_(offsets[0] + gallery_offsets[0])
        out.mul_(self._metric.slope).add_(offsets[first:stop, None]).add_(gallery_offsets)
        return out.clamp_min_(self._metric.lowest)

    def _segments(self, features: Rows) -> Iterator[tuple[int, Tensor]]:
        """All at once if they are at hand as they are needed."""
        is_here = features.device == self._device if isinstance(features, Tensor) else features.flags.writeable
        at_once = len(features) if is_here and str(features.dtype).endswith("float32") else SEGMENT_ROWS
        for start in range(0, len(features), max(1, at_once)):
            yield start, on_device(features[start : start + at_once], self._device)


def on_device(rows: Rows, device: torch.device) -> Tensor:
    """float32 rows there; not copied if they are that already."""
    if not isinstance(rows, Tensor):
        # A file that is mapped into memory must not be written to, and torch wants what may be, forwards.
        is_plain = rows.flags.writeable and min(rows.strides, default=0) >= 0
        rows = torch.from_numpy(rows if is_plain else np.array(rows, order="C"))
    return rows.detach().to(device, torch.float32)


def _resolved(device: str | torch.device) -> torch.device:
    """With the number that a tensor on it will name."""
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


@contextmanager
def exact_products() -> Iterator[None]:
    """float32 products in float32: no TensorFloat-32 or bfloat16 in between, whatever the caller allows."""
    backends = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul] if _HAS_PRECISIONS else []
    before = [backend.fp32_precision for backend in backends]
    legacy = None if backends else torch.get_float32_matmul_precision()
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        if legacy:
            torch.set_float32_matmul_precision("highest")
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
        if legacy:
            torch.set_float32_matmul_precision(legacy)
