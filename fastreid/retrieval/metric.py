"""The distances of TEST.METRIC, as all engines compute them, and descriptors as all of them read them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from fastreid.retrieval.checked import real_rows
from fastreid.utils.suggest import explain_choice

Rows = np.ndarray | torch.Tensor


@dataclass(frozen=True)
class Metric:
    """distance = max(lowest, offset(q) + offset(g) + slope * <q', g'>); what q' and the offsets are says `space`."""

    slope: float
    lowest: float
    normalizes: bool

    @property
    def longest(self) -> float:
        """Of descriptors that float32 has room for, the greatest length (of what is left of them about the centre)."""
        return 2.0**120 if self.normalizes else float(np.finfo(np.float32).max / 8) ** 0.5

    def bounds(self, squares: float) -> tuple[float, float]:
        """Between which distances lie, up to rounding, of descriptors of at most this squared length."""
        return (0.0, 2.0) if self.normalizes else (0.0, max(4.0 * squares, 1e-30))


METRICS = {
    "cosine": Metric(slope=-1.0, lowest=-np.inf, normalizes=True),
    # Squared, as in fast-reid: the order is the same.
    "euclidean": Metric(slope=-2.0, lowest=0.0, normalizes=False),
}


def metric_named(name: str) -> Metric:
    """Raises: ValueError naming the metrics there are."""
    if name not in METRICS:
        raise ValueError(explain_choice("distance metric (TEST.METRIC)", name, METRICS))
    return METRICS[name]


def as_rows(features: ArrayLike) -> Rows:
    """Tensors as arrays, but for bfloat16, which NumPy lacks; a file that is mapped into memory stays one."""
    return real_rows(features)


def as_float32(rows: Rows) -> np.ndarray:
    """Rows in C order, copied only where they must be."""
    rows = rows.float().numpy() if isinstance(rows, torch.Tensor) else rows
    return np.ascontiguousarray(rows, dtype=np.float32)


def check_pair(query: Rows, gallery: Rows) -> None:
    """Raises: ValueError unless they are [Q, D] and [G, D] with one D."""
    shapes = tuple(query.shape), tuple(gallery.shape)
    if not all(len(shape) == 2 and shape[1] for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise ValueError(
            f"query descriptors {list(shapes[0])} and gallery descriptors {list(shapes[1])} must be [Q, D] and [G, D] "
            "with one D"
        )


def check_finite(squares: np.ndarray, rows: int | np.ndarray, side: str, metric: Metric | None = None) -> None:
    """Raises: ValueError naming the first descriptor, of `side` "query image", that is not finite or too long.

    Args:
        squares: float64 [N], squared lengths.
        rows: numbers of the descriptors, or that of the first.
        metric: what is to be computed of them; float32 must hold it.
    """
    fine = squares <= (np.finfo(np.float64).max if metric is None else metric.longest**2)
    if not fine.all():
        at = int(np.argmin(fine))
        row = rows + at if isinstance(rows, int) else int(rows[at])
        what = "too long for float32" if np.isfinite(squares[at]) else "not finite"
        raise ValueError(f"the descriptor of {side} {row} is {what}; did the model diverge?")
