"""Distances by torch's matrix product, block by block: on a GPU, and where the extension is not compiled.

The figures are those of `compiled_engine`, except that distances may differ in their last bits: each library rounds its
products in its own way.
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

from fastreid.retrieval.compiled_engine import is_available
from fastreid.retrieval.descriptors import Rows, check_pair, rows_in_place, rows_on_cpu
from fastreid.retrieval.distances import MEMORY_BUDGET, Distances, rows_within
from fastreid.retrieval.metric import check_finite, fit_metric, metric_named, squared_lengths, unit_factors
from fastreid.utils.devices import free_memory, usable_device

SEGMENT_ROWS = 16_384  # images that are converted and moved to the device together
CENTRED_ROWS = 4096  # images that are scaled and centred together on a CPU: a copy of all would not fit its cache
USUAL = 2.0**50  # greatest length, and inverse of the least, of rows whose products with unit vectors fit float32

# torch 2.9 has a setting for each backend, and refuses to mix it with the older one.
_ONEDNN: Any = torch.backends.mkldnn
_HAS_PRECISIONS = hasattr(getattr(_ONEDNN, "matmul", None), "fp32_precision")


@dataclass(frozen=True)
class _Scales:
    """Scales of one side's N rows on the device: x' = x * boost * factor - centre (`unit_factors`).

    Attributes:
        factors: float32 [N].
        offsets: float32 [N].
        boosts: float32 [N], or None if no row needs one.
        is_usual: whether products of the rows as they are fit float32.
    """

    factors: Tensor
    offsets: Tensor
    boosts: Tensor | None
    is_usual: bool

    def centred(self, rows: Tensor, first: int, centre: Tensor | None, normalizes: bool) -> Tensor:
        """Return x' of `rows`, of which `first` is the number of the first."""
        if normalizes:
            part = slice(first, first + len(rows))
            rows = rows if self.boosts is None else rows * self.boosts[part, None]
            rows = rows * self.factors[part, None]
        return rows if centre is None else rows - centre


class TorchDistances(Distances):
    """Distances of descriptors [Q, D] and [G, D] on a device; arguments and errors as `rank_features`."""

    _query: Rows
    _gallery: Rows

    def __init__(
        self,
        query: ArrayLike,
        gallery: ArrayLike,
        *,
        metric: str = "cosine",
        memory_budget: float = MEMORY_BUDGET,
        device: str | torch.device = "cpu",
    ) -> None:
        """Check the descriptors and choose the centre; on CUDA move them to the device if they fit.

        `memory_budget` is that of a CPU: see `budget_on`.

        Raises:
            ValueError: as `rank_features`; a device that torch cannot use.
        """
        self._metric = metric_named(metric)
        self._query, self._gallery = (x if isinstance(x, Tensor) else np.asanyarray(x) for x in (query, gallery))
        check_pair(self._query, self._gallery)
        self.shape = len(self._query), len(self._gallery)
        self._device = _resolved(device)
        self._fitted = fit_metric(self._metric, self._query, self._gallery)
        self._centre = on_device(self._fitted.centre, self._device) if self._fitted.is_centred else None
        if self._device.type == "cuda" and 4 * self._gallery.nbytes < free_memory(self._device):
            self._move_once()  # otherwise the gallery is moved for every block of queries
        # Without a compiled kernel, counting needs twice as much memory as the distances.
        blocks = 1 if self._device.type == "cpu" and is_available() else 3
        budget = budget_on(self._device, memory_budget)
        self.rows_at_once = rows_within(budget / blocks, 4 * self.shape[1], max(1, self.shape[0]))

    def _move_once(self) -> None:
        self._gallery = self._read(self._gallery)
        if self._fitted.origin is not None:  # subtracted from both sides now
            self._query = self._read(self._query)
            self._fitted = replace(self._fitted, origin=None)

    @property
    def bounds(self) -> tuple[float, float]:
        """Two numbers between which most distances lie."""
        greatest = [float(scales.offsets.max()) for scales in self._scales if len(scales.offsets)]
        return self._metric.bounds(max(greatest, default=0.0))

    @cached_property
    def _scales(self) -> tuple[_Scales, _Scales]:
        """Scales of the queries and of the gallery."""
        query, gallery = self._scales_of(self._query, "query image"), self._scales_of(self._gallery, "gallery image")
        self._fitted.check_spread(gallery.offsets.cpu().numpy())
        return query, gallery

    def _scales_of(self, features: Rows, side: str) -> _Scales:
        starts = range(0, len(features), SEGMENT_ROWS)
        parts = [self._part_scales(self._read(features[s : s + SEGMENT_ROWS]), s, side) for s in starts]
        factors, offsets, boosts = (
            (torch.cat(list(column)) for column in zip(*parts, strict=True))
            if parts
            else (torch.empty(0) for _ in range(3))
        )
        usual = (factors < USUAL) & (factors > 1 / USUAL) & (boosts == 1)
        has_boosts = bool((boosts != 1).any())
        return _Scales(
            factors.to(self._device),
            offsets.to(self._device),
            boosts.to(self._device) if has_boosts else None,
            bool(usual.all()),
        )

    def _part_scales(self, rows: Tensor, first: int, side: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return factors, offsets and boosts of some rows, on the CPU."""
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
                self._fitted.check_lengths(squares, first, side, lambda: _squared_lengths(rows))
            offsets = self._fitted.offsets_of(squares)
        boosts = np.ones(len(rows), np.float32) if boosts is None else boosts
        return torch.from_numpy(factors), torch.from_numpy(offsets), torch.from_numpy(boosts)

    def block(self, first: int, stop: int, out: Any = None) -> Tensor:
        """Return distances [stop - first, G] of queries `first` to `stop` - 1, on the device."""
        query, gallery = self._scales
        normalizes = self._metric.normalizes
        rows = query.centred(self._read(self._query[first:stop]), first, self._centre, normalizes)
        if isinstance(out, np.ndarray):  # the caller wants rows on the CPU
            out = torch.from_numpy(out) if self._device.type == "cpu" else None
        if out is None:
            out = torch.empty(stop - first, self.shape[1], device=self._device)
        # Cosine distances of usual rows need no copies of them: products are scaled instead.
        scale_products = self._centre is None and gallery.is_usual
        with exact_products():
            for start, images in self._segments(scale_products):
                images = images if scale_products else gallery.centred(images, start, self._centre, normalizes)
                torch.mm(rows, images.T, out=out[: stop - first, start : start + len(images)])
        out = out[: stop - first]
        if self._centre is None:
            return out.mul_(self._metric.slope * gallery.factors if scale_products else self._metric.slope).add_(1.0)
        out.mul_(self._metric.slope).add_(query.offsets[first:stop, None]).add_(gallery.offsets)
        return out.clamp_min_(self._fitted.lowest)

    def _segments(self, unscaled: bool) -> Iterator[tuple[int, Tensor]]:
        """Yield gallery rows segment by segment; all of them together if no copy is needed."""
        features = self._gallery
        is_here = features.device == self._device if isinstance(features, Tensor) else features.flags.writeable
        num_rows = SEGMENT_ROWS if unscaled or self._device.type != "cpu" else CENTRED_ROWS
        if unscaled and is_here and str(features.dtype).endswith("float32"):
            num_rows = len(features)
        for start in range(0, len(features), max(1, num_rows)):
            yield start, self._read(features[start : start + num_rows])

    def _read(self, rows: Rows) -> Tensor:
        """Return float32 rows on the device; rows of higher precision are converted on the CPU."""
        if self._fitted.needs_float64(rows):
            rows = self._fitted.read(rows_on_cpu(rows))
        return on_device(rows, self._device)


def _squared_lengths(rows: Tensor, factors: np.ndarray | None = None, centre: Tensor | None = None) -> np.ndarray:
    """Return float64 [N], as `metric.squared_lengths`, computed on the device of the rows."""
    if rows.device.type == "cpu":
        middle = None if centre is None else centre.numpy()
        return squared_lengths(rows.contiguous().numpy(), factors, middle, torch.get_num_threads())
    return _squared_lengths_on_device(rows, factors, centre)


def _squared_lengths_on_device(rows: Tensor, factors: np.ndarray | None, centre: Tensor | None) -> np.ndarray:
    if factors is not None and centre is not None:
        rows = rows * torch.from_numpy(factors[:, None]).to(rows.device) - centre
    return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).square().cpu().numpy()


def on_device(rows: Rows, device: torch.device) -> Tensor:
    """Return float32 rows on a device; not copied if they are there already."""
    if not isinstance(rows, Tensor):
        # torch takes writable arrays with strides of at least 0 only; a memory-mapped file may be neither.
        is_plain = rows.flags.writeable and min(rows.strides, default=0) >= 0
        rows = torch.from_numpy(rows if is_plain else np.array(rows, order="C"))
    return rows.detach().to(device, torch.float32)


def _resolved(device: str | torch.device) -> torch.device:
    """Return the device with the index that a tensor on it has."""
    resolved = torch.device(usable_device(device))
    if resolved.type == "cuda" and resolved.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return resolved


def budget_on(device: torch.device, memory_budget: float) -> float:
    """Return the memory in MiB that ranking may use on a device: on a GPU at least a quarter of what is free there.

    Args:
        device: the device.
        memory_budget: the budget of the CPU, in MiB, for which many small blocks are as fast as a few large ones.
    """
    return memory_budget if device.type != "cuda" else max(memory_budget, free_memory(device) / 4 / 2**20)


def build_dist(query: Tensor, gallery: Tensor, metric: str = "cosine") -> np.ndarray:
    """Return the distance matrix float32 [Q, G] of descriptors [Q, D] and [G, D]; for few images.

    Args:
        query: descriptors [Q, D].
        gallery: descriptors [G, D].
        metric: "cosine" (1 - cos) or "euclidean" (squared, as in fast-reid).

    Raises:
        ValueError: an unknown metric, descriptors of different length, or ones that are not finite real numbers.
    """
    distances = TorchDistances(rows_in_place(query), rows_in_place(gallery), metric=metric)
    return distances.rows(0, len(query))


@contextmanager
def exact_products() -> Iterator[None]:
    """Compute float32 products in float32: no TensorFloat-32 or bfloat16, whatever the caller's settings allow."""
    backends: list[Any] = [torch.backends.cuda.matmul, _ONEDNN.matmul] if _HAS_PRECISIONS else []
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
