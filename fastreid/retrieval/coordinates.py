"""Where descriptors are compared: about a point in their midst, so that what all have in common costs no digits.

|q - g|^2 = |q'|^2 + |g'|^2 - 2 <q', g'> with q' = q - c, for any c. About the origin float32 loses what a common offset
of 1,000 leaves over; about a point among the descriptors there is no offset. The same holds for cosines, as
1 - cos = |u - v|^2 / 2 of unit vectors: where all of them point one way they are compared about a point, too.

The point is the median of a few gallery rows, in each dimension: one of their own values, so that whole numbers stay
whole, and not moved by a few that lie far away. It depends on nothing but the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from fastreid.retrieval.metric import Metric, Rows, as_float32, as_rows, check_finite, check_pair, metric_named

_SAMPLE = 63  # rows; odd, so that a median is one of the values
_ONE_WAY = 0.9  # squared length of the median of unit vectors, from which on cosines are compared about it
_ROWS_AT_ONCE = 512  # that are held in float64
_BOOST = 2.0**100  # for unit vectors of rows that are shorter than float32's normal numbers
_SHORT = 2.0**-120
_LOST = 2.0**-136  # squared distances below have a dozen bits in float32, and soon none


@dataclass(frozen=True)
class Space:
    """Descriptors x become x' = factor(x) x - centre, factor 1 or, for cosines, 1 / |x|; see `Metric`.

    Attributes:
        centre: float32 [D], which kernels take off.
        origin: float64 [D], which is taken off while rows are read, as they have more digits than float32; or None.
        is_centred: whether offsets are those of |q' - g'|^2; else they are 0.5 of cosines.
    """

    metric: Metric
    centre: np.ndarray
    origin: np.ndarray | None = None
    is_centred: bool = True

    @property
    def lowest(self) -> float:
        """Least distance; of cosines that are computed as 1 - cos rounding may leave less than zero."""
        return 0.0 if self.is_centred else self.metric.lowest

    def reads(self, rows: Rows) -> bool:
        """Whether `read` does more than round or widen."""
        return self.origin is not None or (self.metric.normalizes and has_more_digits(rows))

    def is_ready(self, rows: Rows) -> bool:
        """Whether kernels can take the rows from where they are."""
        plain = type(rows) is np.ndarray and rows.dtype == np.float32 and rows.flags.c_contiguous
        return plain and not self.reads(rows)

    def read(self, rows: Rows) -> np.ndarray:
        """float32 rows in C order, copied only where they must be; what has more digits loses its origin first."""
        if not self.reads(rows):
            return as_float32(rows)
        read = np.empty(tuple(rows.shape), dtype=np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is named later
            for start in range(0, len(rows), _ROWS_AT_ONCE):
                part = _as_float64(rows[start : start + _ROWS_AT_ONCE])
                part = _near_one(part) if self.origin is None else _fitted(part - self.origin)
                read[start : start + len(part)] = part
                _mark_lost(part, read[start : start + len(part)])
        return read

    def scales(
        self, features: np.ndarray, rows: int | np.ndarray, side: str, num_threads: int = 1
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features [N, D] as `read` gives them, and their float32 factors and offsets [N].

        The features are themselves, but for copies where some are shorter than float32's normal numbers.

        Raises:
            ValueError: a row is not finite or too long; `rows` are their numbers, or that of the first.
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
            self.check_placed(squares, rows, side, lambda: squared_lengths(features))
        return features, factors, self.offsets_of(squares)

    def offsets_of(self, squares: np.ndarray) -> np.ndarray:
        """float32 offsets of |x'|^2, if the space is centred; zero only of zero, as `check_spread` asks."""
        offsets = (-self.metric.slope / 2 * squares).astype(np.float32)
        return np.maximum(offsets, np.where(squares > 0, np.finfo(np.float32).smallest_subnormal, np.float32(0)))

    def placed(self, features: np.ndarray, factors: np.ndarray) -> np.ndarray:
        """float32 x' of what `scales` gives."""
        if not self.metric.normalizes:
            return features - self.centre
        units = features * factors[:, None]
        return units - self.centre if self.is_centred else units

    def check_spread(self, squares: np.ndarray) -> None:
        """Raises: ValueError if all rows differ by less than squared distances in float32 can say.

        Args:
            squares: |x'|^2 of the gallery.
        """
        if not self.metric.normalizes and 0 < squares.max(initial=0.0) < _LOST:
            raise ValueError(
                f"gallery descriptors differ by at most {2 * squares.max() ** 0.5:.1g}, and float32 has no room for "
                "the squares of that: multiply all descriptors by one number, which changes no order, or take "
                "TEST.METRIC cosine"
            )

    def check_placed(
        self, squares: np.ndarray, rows: int | np.ndarray, side: str, lengths: Callable[[], np.ndarray]
    ) -> None:
        """Raises: ValueError naming a row that is not finite or too far from the centre.

        Args:
            squares: |x'|^2.
            rows, side: as `scales`.
            lengths: gives |x|^2, by which a row that is not finite is known from one that is too far.
        """
        if not (squares <= self.metric.longest**2).all():
            check_finite(lengths(), rows, side)
            check_finite(np.nan_to_num(squares), rows, side, self.metric)


def space_of(metric: Metric, query: Rows, gallery: Rows) -> Space:
    """The space that the rows' own values ask for; both sides share it."""
    origin = np.zeros(gallery.shape[1], dtype=np.float32)
    sample = _sample(gallery)
    if metric.normalizes:
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is named later
            sample = _near_one(sample).astype(np.float32)
            middle = _median(sample * unit_factors(squared_lengths(sample))[1][:, None])  # near one: no boosts
        is_centred = math.fsum(np.square(middle, dtype=np.float64)) > _ONE_WAY
        return Space(metric, middle if is_centred else origin, is_centred=is_centred)
    if has_more_digits(query) or has_more_digits(gallery):
        return Space(metric, origin, _median(sample))
    return Space(metric, _median(sample.astype(np.float32)))


def has_more_digits(rows: Rows) -> bool:
    """Whether float32 cannot hold every value that rows of this type can have."""
    if isinstance(rows, torch.Tensor):
        return rows.dtype in (torch.float64, torch.int32, torch.int64, torch.uint32, torch.uint64)
    return (rows.dtype.kind == "f" and rows.dtype.itemsize > 4) or (rows.dtype.kind in "iu" and rows.dtype.itemsize > 2)


def unit_factors(squares: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """float32 factors [N] that make rows of these squared lengths, float64 [N], unit vectors; rows of zeros stay zeros.

    Where a factor is beyond float32, the row is to be multiplied by its boost first; None if no row needs one.
    """
    is_short = (squares > 0) & (squares < _SHORT**2)
    lengths = np.sqrt(squares) * np.where(is_short, _BOOST, 1.0)
    with np.errstate(invalid="ignore"):
        factors = (1.0 / np.where(squares == 0, 1.0, lengths)).astype(np.float32)
    return np.where(is_short, _BOOST, 1.0).astype(np.float32) if is_short.any() else None, factors


def joined(query: ArrayLike, gallery: ArrayLike, metric: str) -> np.ndarray:
    """Descriptors of both as one float32 [Q + G, D]; distances among them are those of the metric.

    What has more digits than float32 has lost what all have in common where the metric allows it.

    Raises:
        ValueError: shapes; a descriptor that is not finite, named by its side.
    """
    sides = as_rows(query), as_rows(gallery)
    check_pair(*sides)
    space = space_of(metric_named(metric), *sides)
    rows = [space.read(side) for side in sides]
    for side, of_side in zip(("query image", "gallery image"), rows, strict=True):
        space.scales(of_side, 0, side)
    return np.concatenate(rows)


def squared_lengths(
    features: np.ndarray,
    factors: np.ndarray | None = None,
    centre: np.ndarray | None = None,
    num_threads: int = 1,
) -> np.ndarray:
    """float64 [N], |x|^2 of float32 rows or, with both factors and centre, |x'|^2; the same bits wherever compiled."""
    try:
        from fastreid.retrieval.rank_cylib.rank_cy import squared_lengths as compiled
    except ImportError:
        starts = range(0, len(features), _ROWS_AT_ONCE)
        found = [_squared_lengths(*(x if x is None else x[s : s + _ROWS_AT_ONCE] for x in (features, factors)), centre)
                 for s in starts]  # fmt: skip
        return np.concatenate(found) if found else np.zeros(0)
    return compiled(features, factors, centre, num_threads)


def _squared_lengths(features: np.ndarray, factors: np.ndarray | None, centre: np.ndarray | None) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        placed = features if factors is None else features * factors[:, None] - centre
        return np.einsum("nd,nd->n", placed, placed, dtype=np.float64)


def _sample(rows: Rows) -> np.ndarray:
    """float64 rows, an odd number of them, evenly spread."""
    count = min(_SAMPLE, (len(rows) - 1) // 2 * 2 + 1)
    if count < 1:
        return np.zeros((1, rows.shape[1]))
    chosen = np.arange(count) * len(rows) // count
    if isinstance(rows, torch.Tensor):
        return _as_float64(as_rows(rows[torch.from_numpy(chosen).to(rows.device)]))
    return _as_float64(rows[chosen])


def _median(rows: np.ndarray) -> np.ndarray:
    """Of each dimension; zero where it is not finite."""
    middle = len(rows) // 2
    found = np.partition(np.ascontiguousarray(rows.T), middle, axis=1)[:, middle]
    return np.ascontiguousarray(np.where(np.isfinite(found), found, 0).astype(rows.dtype))


def _as_float64(rows: Rows) -> np.ndarray:
    return rows.double().numpy() if isinstance(rows, torch.Tensor) else np.asarray(rows, dtype=np.float64)


def _fitted(rows: np.ndarray) -> np.ndarray:
    """Finite numbers stay finite in float32, so that the error says that a row is too long, not infinite."""
    limit = np.finfo(np.float32).max
    return np.where(np.isfinite(rows), rows.clip(-limit, limit), rows) if (np.abs(rows) > limit).any() else rows


def _mark_lost(rows: np.ndarray, rounded: np.ndarray) -> None:
    """Leave one of float32's least normal numbers in rows that rounding made zeros and that are none.

    Next to rows of any other length it changes no distance; where all rows are so short, `Space.check_spread` sees that
    they differ.
    """
    lost = ~rounded.any(axis=1)
    lost[lost] = rows[lost].any(axis=1)
    rounded[lost, 0] = np.finfo(np.float32).tiny


def _near_one(rows: np.ndarray) -> np.ndarray:
    """Rows whose squares, or themselves, float32 has no room for, times powers of two that bring them near to one."""
    greatest = np.abs(rows).max(axis=1, initial=0.0)
    is_far = (greatest > 2.0**100) | ((greatest < 2.0**-100) & (greatest > 0))
    if not is_far.any():
        return rows
    rows = rows.copy()
    rows[is_far] = np.ldexp(rows[is_far], -np.frexp(greatest[is_far])[1][:, None])
    return rows
