"""Distance metrics, and the centring that keeps them accurate in float32.

|q - g|^2 = |q'|^2 + |g'|^2 - 2 <q', g'> with q' = q - c and g' = g - c, for any centre c. With c = 0, float32 loses the
digits of small differences between descriptors that share a large offset; with c among the descriptors there is no such
offset. The same holds for cosine distances, 1 - cos = |u - v|^2 / 2 of unit vectors: if all of them point in one
direction, they are centred as well.

The centre is the median of a few gallery rows in each dimension. It is one of their own values, so whole numbers stay
whole, a few distant rows do not move it, and it depends on the rows only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from fastreid.retrieval.descriptors import (
    Rows,
    as_float32,
    as_float64,
    check_pair,
    exceeds_float32,
    rows_on_cpu,
)
from fastreid.utils.suggest import explain_choice

_SAMPLE = 63  # rows that the median is taken of; odd, so that a median is one of the values
_ONE_DIRECTION = 0.9  # squared length of the median of unit vectors from which on cosine distances are centred
_FLOAT64_ROWS = 512  # rows that are held in float64 together
_BOOST = 2.0**100  # multiplies rows that are shorter than float32's normal numbers
_SHORT = 2.0**-120
_UNDERFLOW = 2.0**-136  # squared distances below this have at most a dozen bits in float32


@dataclass(frozen=True)
class Metric:
    """distance = max(lowest, offset(q) + offset(g) + slope * <q', g'>); `FittedMetric` gives q', g' and the offsets.

    Attributes:
        slope: factor of the inner product.
        lowest: the least distance; -inf for none.
        normalizes: whether descriptors are scaled to unit length.
    """

    slope: float
    lowest: float
    normalizes: bool

    @property
    def longest(self) -> float:
        """Greatest length of a (centred) descriptor that float32 can handle."""
        return 2.0**120 if self.normalizes else float(np.finfo(np.float32).max / 8) ** 0.5

    def bounds(self, squares: float) -> tuple[float, float]:
        """Range of the distances, up to rounding, between descriptors whose squared length is at most `squares`."""
        return (0.0, 2.0) if self.normalizes else (0.0, max(4.0 * squares, 1e-30))


METRICS = {
    "cosine": Metric(slope=-1.0, lowest=-np.inf, normalizes=True),
    # Squared, as in fast-reid: the order is the same.
    "euclidean": Metric(slope=-2.0, lowest=0.0, normalizes=False),
}


def metric_named(name: str) -> Metric:
    """Return the metric of TEST.METRIC.

    Raises:
        ValueError: an unknown name; the message lists the metrics.
    """
    if name not in METRICS:
        raise ValueError(explain_choice("distance metric (TEST.METRIC)", name, METRICS))
    return METRICS[name]


def check_finite(squares: np.ndarray, rows: int | np.ndarray, side: str, metric: Metric | None = None) -> None:
    """Check that descriptors are finite and, with a metric, not too long for it.

    Args:
        squares: squared lengths, float64 [N].
        rows: numbers of the descriptors, or that of the first.
        side: what a row is, for the error message ("query image").
        metric: the metric that will be computed in float32.

    Raises:
        ValueError: names the first descriptor that is not finite or too long.
    """
    fine = squares <= (np.finfo(np.float64).max if metric is None else metric.longest**2)
    if not fine.all():
        first = int(np.argmin(fine))
        row = rows + first if isinstance(rows, int) else int(rows[first])
        problem = "not finite"
        if np.isfinite(squares[first]):
            problem = "too long for float32: multiply all descriptors by one small number"
        raise ValueError(f"the descriptor of {side} {row} is {problem}; did the model diverge?")


@dataclass(frozen=True)
class FittedMetric:
    """A metric with the centre for given descriptors: x' = factor(x) x - centre.

    The factor is 1 or, for cosine distances, 1 / |x|.

    Attributes:
        metric: the metric.
        centre: float32 [D], subtracted by the kernels.
        origin: float64 [D], subtracted while rows are read, for descriptors of higher precision than float32; or None.
        is_centred: whether offsets are those of |q' - g'|^2; if not, they are 0.5 and distances are 1 - cos.
    """

    metric: Metric
    centre: np.ndarray
    origin: np.ndarray | None = None
    is_centred: bool = True

    @property
    def lowest(self) -> float:
        """Least distance; rounding may make 1 - cos negative."""
        return 0.0 if self.is_centred else self.metric.lowest

    def needs_float64(self, rows: Rows) -> bool:
        """Return whether `read` does more than convert the rows to float32."""
        return self.origin is not None or (self.metric.normalizes and exceeds_float32(rows))

    def is_ready(self, rows: Rows) -> bool:
        """Return whether the kernels can use the rows without a copy."""
        plain = type(rows) is np.ndarray and rows.dtype == np.float32 and rows.flags.c_contiguous
        return plain and not self.needs_float64(rows)

    def read(self, rows: Rows) -> np.ndarray:
        """Return float32 rows in C order, copied only where they must be; the origin is subtracted in float64."""
        if not self.needs_float64(rows):
            return as_float32(rows)
        read = np.empty(tuple(rows.shape), dtype=np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # rows that become infinite are named later
            for start in range(0, len(rows), _FLOAT64_ROWS):
                part = as_float64(rows[start : start + _FLOAT64_ROWS])
                part = _rescaled(part) if self.origin is None else _clipped(part - self.origin)
                read[start : start + len(part)] = part
                _keep_nonzero(part, read[start : start + len(part)])
        return read

    def scales(
        self, features: np.ndarray, rows: int | np.ndarray, side: str, num_threads: int = 1
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return features [N, D] as the kernels take them, and their float32 factors and offsets [N].

        The features are returned as they are; a copy is made only if some are shorter than float32's normal numbers.

        Args:
            features: rows as `read` returns them.
            rows: numbers of the rows, or that of the first, for the error message.
            side: what a row is, for the error message.
            num_threads: threads of the compiled kernel.

        Raises:
            ValueError: a row is not finite or too long.
        """
        if self.metric.normalizes:
            squares = squared_lengths(features, num_threads=num_threads)
            check_finite(squares, rows, side, self.metric)
            boosts, factors = unit_factors(squares)
            features = features if boosts is None else features * boosts[:, None]
        else:
            factors = np.ones(len(features), np.float32)
        if not self.is_centred:
            return features, factors, np.full(len(features), 0.5, np.float32)
        squares = squared_lengths(features, factors, self.centre, num_threads)
        if not self.metric.normalizes:
            self.check_lengths(squares, rows, side, lambda: squared_lengths(features))
        return features, factors, self.offsets_of(squares)

    def offsets_of(self, squares: np.ndarray) -> np.ndarray:
        """Return float32 offsets of |x'|^2 for a centred metric; only zero becomes zero, as `check_spread` requires."""
        offsets = (-self.metric.slope / 2 * squares).astype(np.float32)
        return np.maximum(offsets, np.where(squares > 0, np.finfo(np.float32).smallest_subnormal, np.float32(0)))

    def centred(self, features: np.ndarray, factors: np.ndarray) -> np.ndarray:
        """Return float32 x' of the features and factors that `scales` returns."""
        if not self.metric.normalizes:
            return features - self.centre
        units = features * factors[:, None]
        return units - self.centre if self.is_centred else units

    def check_spread(self, squares: np.ndarray) -> None:
        """Check that float32 can represent the squared distances between gallery descriptors.

        Args:
            squares: |x'|^2 of the gallery.

        Raises:
            ValueError: all rows are too close to each other.
        """
        if not self.metric.normalizes and 0 < squares.max(initial=0.0) < _UNDERFLOW:
            raise ValueError(
                f"gallery descriptors differ by at most {2 * squares.max() ** 0.5:.1g}, and float32 has no room for "
                "the squares of that: multiply all descriptors by one number, which changes no order, or take "
                "TEST.METRIC cosine"
            )

    def check_lengths(
        self, squares: np.ndarray, rows: int | np.ndarray, side: str, lengths: Callable[[], np.ndarray]
    ) -> None:
        """Check that rows are finite and not too far from the centre.

        Args:
            squares: |x'|^2.
            rows: as `scales`.
            side: as `scales`.
            lengths: returns |x|^2, which tells a row that is not finite from one that is too far away.

        Raises:
            ValueError: names the first row that fails.
        """
        if not (squares <= self.metric.longest**2).all():
            check_finite(lengths(), rows, side)
            check_finite(np.nan_to_num(squares), rows, side, self.metric)


def fit_metric(metric: Metric, query: Rows, gallery: Rows) -> FittedMetric:
    """Choose the centre for descriptors [Q, D] and [G, D]; both sides share it."""
    origin = np.zeros(gallery.shape[1], dtype=np.float32)
    sample = _sample(gallery)
    if metric.normalizes:
        with np.errstate(over="ignore", invalid="ignore"):  # rows that are not finite are named later
            sample = _rescaled(sample).astype(np.float32)
            middle = _median(sample * unit_factors(squared_lengths(sample))[1][:, None])  # rescaled: no boosts
        is_centred = math.fsum(np.square(middle, dtype=np.float64)) > _ONE_DIRECTION
        return FittedMetric(metric, middle if is_centred else origin, is_centred=is_centred)
    if exceeds_float32(query) or exceeds_float32(gallery):
        return FittedMetric(metric, origin, _median(sample))
    return FittedMetric(metric, _median(sample.astype(np.float32)))


def joined_rows(query: ArrayLike, gallery: ArrayLike, metric: str) -> np.ndarray:
    """Return the descriptors of both sides as one float32 [Q + G, D] with the same distances.

    Descriptors of higher precision than float32 have lost their common offset where the metric allows it.

    Raises:
        ValueError: the shapes differ, or a descriptor is not finite; it is named by its side.
    """
    sides = rows_on_cpu(query), rows_on_cpu(gallery)
    check_pair(*sides)
    fitted = fit_metric(metric_named(metric), *sides)
    rows = [fitted.read(side) for side in sides]
    for side, side_rows in zip(("query image", "gallery image"), rows, strict=True):
        fitted.scales(side_rows, 0, side)
    return np.concatenate(rows)


def unit_factors(squares: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """Return boosts and float32 factors [N] that scale rows of these squared lengths (float64 [N]) to unit length.

    Where a factor exceeds float32, the row must be multiplied by its boost first; boosts are None if no row needs one.
    Rows of zeros stay zeros.
    """
    is_short = (squares > 0) & (squares < _SHORT**2)
    lengths = np.sqrt(squares) * np.where(is_short, _BOOST, 1.0)
    with np.errstate(invalid="ignore"):
        factors = (1.0 / np.where(squares == 0, 1.0, lengths)).astype(np.float32)
    return np.where(is_short, _BOOST, 1.0).astype(np.float32) if is_short.any() else None, factors


def squared_lengths(
    features: np.ndarray,
    factors: np.ndarray | None = None,
    centre: np.ndarray | None = None,
    num_threads: int = 1,
) -> np.ndarray:
    """Return float64 [N], |x|^2 of float32 rows or, with both factors and centre, |x'|^2.

    The compiled kernel gives the same bits on every machine.
    """
    try:
        from fastreid.retrieval.rank_cylib.rank_cy import squared_lengths as compiled
    except ImportError:
        found = [_squared_lengths(features[s : s + _FLOAT64_ROWS],
                                  None if factors is None else factors[s : s + _FLOAT64_ROWS], centre)
                 for s in range(0, len(features), _FLOAT64_ROWS)]  # fmt: skip
        return np.concatenate(found) if found else np.zeros(0)
    return compiled(features, factors, centre, num_threads)


def _squared_lengths(features: np.ndarray, factors: np.ndarray | None, centre: np.ndarray | None) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        rows = features if factors is None else features * factors[:, None] - centre
        return np.einsum("nd,nd->n", rows, rows, dtype=np.float64)


def _sample(rows: Rows) -> np.ndarray:
    """Return an odd number of evenly spread rows as float64."""
    count = min(_SAMPLE, (len(rows) - 1) // 2 * 2 + 1)
    if count < 1:
        return np.zeros((1, rows.shape[1]))
    chosen = np.arange(count) * len(rows) // count
    if isinstance(rows, torch.Tensor):
        return as_float64(rows_on_cpu(rows[torch.from_numpy(chosen).to(rows.device)]))
    return as_float64(rows[chosen])


def _median(rows: np.ndarray) -> np.ndarray:
    """Return the median of each dimension; zero where it is not finite."""
    middle = len(rows) // 2
    found = np.partition(np.ascontiguousarray(rows.T), middle, axis=1)[:, middle]
    return np.ascontiguousarray(np.where(np.isfinite(found), found, 0).astype(rows.dtype))


def _clipped(rows: np.ndarray) -> np.ndarray:
    """Keep finite numbers finite in float32, so that the error says that a row is too long, not infinite."""
    limit = np.finfo(np.float32).max
    return np.where(np.isfinite(rows), rows.clip(-limit, limit), rows) if (np.abs(rows) > limit).any() else rows


def _keep_nonzero(rows: np.ndarray, rounded: np.ndarray) -> None:
    """Write float32's least normal number into rows that are not zero but were rounded to zeros.

    Next to rows of any other length this changes no distance; if all rows are that short, `FittedMetric.check_spread`
    sees that they differ.
    """
    lost = np.asarray(~rounded.any(axis=1))
    lost[lost] = rows[lost].any(axis=1)
    rounded[lost, 0] = np.finfo(np.float32).tiny


def _rescaled(rows: np.ndarray) -> np.ndarray:
    """Multiply rows whose squares, or values, exceed float32's range by powers of two that bring them near one."""
    greatest = np.abs(rows).max(axis=1, initial=0.0)
    is_far = (greatest > 2.0**100) | ((greatest < 2.0**-100) & (greatest > 0))
    if not is_far.any():
        return rows
    rows = rows.copy()
    rows[is_far] = np.ldexp(rows[is_far], -np.frexp(greatest[is_far])[1][:, None])
    return rows
