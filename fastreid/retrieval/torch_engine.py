"""Distances by torch's matrix product, a block of queries at a time: on a GPU, and where the extension is not compiled.

The same figures as `compiled_engine`, but for distances that differ in their last bits: each library rounds its product
in its own way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from fastreid.config import resolve_device
from fastreid.retrieval.compiled_engine import is_available
from fastreid.retrieval.coordinates import space_of, squared_lengths, unit_factors
from fastreid.retrieval.distances import MEMORY_BUDGET, Distances, rows_within
from fastreid.retrieval.metric import Rows, as_rows, check_finite, check_pair, metric_named

SEGMENT_ROWS = 16_384  # images that are widened and moved to the device together
PLACED_ROWS = 4096  # that are placed together on a CPU: a copy of all would not fit its cache
USUAL = 2.0**50  # longest row, and its inverse the shortest, of which float32 holds products with unit vectors

# torch 2.9 has a setting for each backend, and refuses to mix it with the older one.
_HAS_PRECISIONS = hasattr(getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision")


@dataclass(frozen=True)
class _Scales:
    """Of one side, on the device: x' = x * boost * factor - centre; no boosts if no row needs one (`unit_factors`)."""

    factors: Tensor  # float32 [N]
    offsets: Tensor  # float32 [N]
    boosts: Tensor | None
    is_usual: bool  # whether float32 holds products of the rows as they are

    def placed(self, rows: Tensor, first: int, centre: Tensor | None, normalizes: bool) -> Tensor:
        """x' of rows first, first + 1, …"""
        if normalizes:
            some = slice(first, first + len(rows))
            rows = rows if self.boosts is None else rows * self.boosts[some, None]
            rows = rows * self.factors[some, None]
        return rows if centre is None else rows - centre


class TorchDistances(Distances):
    """Distances of descriptors [Q, D] and [G, D] on a device; arguments and errors as `rank_features`."""

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
        self._space = space_of(self._metric, self._query, self._gallery)
        self._centre = on_device(self._space.centre, self._device) if self._space.is_centred else None
        if self._device.type == "cuda" and 4 * self._gallery.nbytes < torch.cuda.mem_get_info(self._device)[0]:
            self._move_once()  # else the gallery is moved for every block of queries

    def _move_once(self) -> None:
        self._gallery = self._read(self._gallery)
        if self._space.origin is not None:  # once both sides have lost it they are as any others
            self._query = self._read(self._query)
            self._space = replace(self._space, origin=None)

    @property
    def bounds(self) -> tuple[float, float]:
        offsets = [scales.offsets for scales in self._scales if len(scales.offsets)]
        return self._metric.bounds(max((float(own.max()) for own in offsets), default=0.0))

    @cached_property
    def _scales(self) -> tuple[_Scales, _Scales]:
        """Of queries, then of the gallery."""
        query, gallery = self._scales_of(self._query, "query image"), self._scales_of(self._gallery, "gallery image")
        self._space.check_spread(gallery.offsets.cpu().numpy())
        return query, gallery

    def _scales_of(self, features: Rows, side: str) -> _Scales:
        starts = range(0, len(features), SEGMENT_ROWS)
        parts = [self._part_scales(self._read(features[s : s + SEGMENT_ROWS]), s, side) for s in starts]
        factors, offsets, boosts = (torch.cat([part[at] for part in parts] or [torch.empty(0)]) for at in range(3))
        usual = (factors < USUAL) & (factors > 1 / USUAL) & (boosts == 1)
        has_boosts = bool((boosts != 1).any())
        return _Scales(
            factors.to(self._device),
            offsets.to(self._device),
            boosts.to(self._device) if has_boosts else None,
            bool(usual.all()),
        )

    def _part_scales(self, rows: Tensor, first: int, side: str) -> tuple[Tensor, Tensor, Tensor]:
        """Factors, offsets and boosts of some rows, on the CPU."""
        boosts, factors = None, np.ones(len(rows), np.float32)
        offsets = np.full(len(rows), 0.5, np.float32)
        if self._metric.normalizes:
            squares = _squared_lengths(rows)
            check_finite(squares, first, side, self._metric)
            boosts, factors = unit_factors(squares)
            rows = rows if boosts is None else rows * torch.from_numpy(boosts[:, None]).to(self._device)
        if self._centre is not None:
            squares = _squared_lengths(rows, factors, self._centre)
            if not self._metric.normalizes:
                self._space.check_placed(squares, first, side, lambda: _squared_lengths(rows))
            offsets = self._space.offsets_of(squares)
        boosts = np.ones(len(rows), np.float32) if boosts is None else boosts
        return torch.from_numpy(factors), torch.from_numpy(offsets), torch.from_numpy(boosts)

    def block(self, first: int, stop: int, out: Any = None) -> Tensor:
        query, gallery = self._scales
        normalizes = self._metric.normalizes
        rows = query.placed(self._read(self._query[first:stop]), first, self._centre, normalizes)
        if isinstance(out, np.ndarray):  # rows are needed on the CPU
            out = torch.from_numpy(out) if self._device.type == "cpu" else None
        if out is None:
            out = torch.empty(stop - first, self.shape[1], device=self._device)
        # Cosines of usual rows need no copies of them: products are scaled instead.
        as_they_are = self._centre is None and gallery.is_usual
        with exact_products():
            for start, images in self._segments(as_they_are):
                images = images if as_they_are else gallery.placed(images, start, self._centre, normalizes)
                torch.mm(rows, images.T, out=out[: stop - first, start : start + len(images)])
        out = out[: stop - first]
        if self._centre is None:
            return out.mul_(self._metric.slope * gallery.factors if as_they_are else self._metric.slope).add_(1.0)
        out.mul_(self._metric.slope).add_(query.offsets[first:stop, None]).add_(gallery.offsets)
        return out.clamp_min_(self._space.lowest)

    def _segments(self, as_they_are: bool) -> Iterator[tuple[int, Tensor]]:
        """Gallery rows, all at once if they are at hand as they are needed."""
        features = self._gallery
        is_here = features.device == self._device if isinstance(features, Tensor) else features.flags.writeable
        at_once = SEGMENT_ROWS if as_they_are or self._device.type != "cpu" else PLACED_ROWS
        if as_they_are and is_here and str(features.dtype).endswith("float32"):
            at_once = len(features)
        for start in range(0, len(features), max(1, at_once)):
            yield start, self._read(features[start : start + at_once])

    def _read(self, rows: Rows) -> Tensor:
        """float32 rows on the device; what has more digits is converted on the CPU."""
        return on_device(self._space.read(as_rows(rows)) if self._space.reads(rows) else rows, self._device)


def _squared_lengths(rows: Tensor, factors: np.ndarray | None = None, centre: Tensor | None = None) -> np.ndarray:
    """float64 [N], as `space.squared_lengths`, where the rows are."""
    if rows.device.type == "cpu":
        middle = None if centre is None else centre.numpy()
        return squared_lengths(rows.contiguous().numpy(), factors, middle, torch.get_num_threads())
    return _squared_lengths_on_device(rows, factors, centre)


def _squared_lengths_on_device(rows: Tensor, factors: np.ndarray | None, centre: Tensor | None) -> np.ndarray:
    if factors is not None:
        rows = rows * torch.from_numpy(factors[:, None]).to(rows.device) - centre
    return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).square().cpu().numpy()


def on_device(rows: Rows, device: torch.device) -> Tensor:
    """float32 rows there; not copied if they are that already."""
    if not isinstance(rows, Tensor):
        # A file that is mapped into memory must not be written to, and torch wants what may be, forwards.
        is_plain = rows.flags.writeable and min(rows.strides, default=0) >= 0
        rows = torch.from_numpy(rows if is_plain else np.array(rows, order="C"))
    return rows.detach().to(device, torch.float32)


def _resolved(device: str | torch.device) -> torch.device:
    """With the number that a tensor on it will name."""
    device = torch.device(resolve_device(device, key="device"))
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
