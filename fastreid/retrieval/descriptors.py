"""Reads descriptors of any array type as rows of real numbers, and names the rows that cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from fastreid.utils.errors import UserError

Rows = np.ndarray | torch.Tensor

_CHECKED_ROWS = 4096  # rows that are converted to float64 together
_KINDS = {"c": "complex numbers", "U": "text", "S": "text", "M": "dates", "m": "time spans", "V": "records"}
_TORCH_TYPES = (
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool,
)  # fmt: skip
_MOST_EXACT = 2**53
DIVERGED = "did the model diverge?"


class FeatureError(UserError, ValueError):
    """Descriptors that cannot be scored; the message names the first of them."""


def rows_on_cpu(features: ArrayLike, what: str = "descriptors") -> Rows:
    """Return descriptors (or distances) as an array of real numbers.

    A tensor is moved to the CPU; it stays a tensor only if it is bfloat16, which NumPy lacks. A memory-mapped file
    stays one, and nothing is copied without need; numbers in another byte order than the machine's are. Whether the
    numbers are finite is checked when they are used.

    Args:
        features: an array, a tensor on any device, or nested lists.
        what: what the rows are, for the error message.

    Raises:
        FeatureError: complex numbers, text, dates, objects, ragged rows, a sparse or quantised tensor, masked values,
            whole numbers beyond 2^53.
    """
    if isinstance(features, torch.Tensor):
        features = _checked_tensor(features, what).detach().cpu()
        return features if features.dtype == torch.bfloat16 else features.numpy()
    try:
        rows = np.asanyarray(features)
    except ValueError as error:
        raise FeatureError(f"{what} must be rows of equally many numbers: {error}") from error
    if rows.dtype.kind == "O":
        return _from_objects(rows, what)
    if rows.dtype.kind not in "fiub":
        raise FeatureError(
            f"{what} must be real numbers, but all {len(rows) if rows.ndim else 1} rows are "
            f"{_KINDS.get(rows.dtype.kind, 'of another kind')} ({rows.dtype})"
        )
    if isinstance(rows, np.ma.MaskedArray):
        _check_rows(np.asarray(np.ma.getmaskarray(rows)), f"rows of {what} are masked", rows)
    if not rows.dtype.isnative:
        rows = rows.astype(rows.dtype.newbyteorder("="))
    _check_whole(rows, what)
    return rows if isinstance(rows, np.memmap) else np.asarray(rows)


def matrix_on_cpu(distances: ArrayLike) -> np.ndarray:
    """Return distances as `rows_on_cpu` does, but bfloat16 as float32, which has all of its values.

    Raises:
        FeatureError: as `rows_on_cpu`.
    """
    rows = rows_on_cpu(distances, "distances")
    return rows.float().numpy() if isinstance(rows, torch.Tensor) else rows


def rows_in_place(features: ArrayLike, what: str = "descriptors") -> Rows:
    """Return the same as `rows_on_cpu`, but leave tensors as they are and on their device.

    Args:
        features: as `rows_on_cpu`.
        what: as `rows_on_cpu`.

    Raises:
        FeatureError: as `rows_on_cpu`.
    """
    return _checked_tensor(features, what) if isinstance(features, torch.Tensor) else rows_on_cpu(features, what)


def _checked_tensor(features: torch.Tensor, what: str) -> torch.Tensor:
    if features.is_meta:
        raise FeatureError(f"{what} are a tensor on the device meta, which holds no numbers")
    if features.dtype not in _TORCH_TYPES or features.layout is not torch.strided:
        raise FeatureError(
            f"{what} must be a dense tensor of real numbers, got {features.dtype} ({features.layout}); convert "
            "them with .float()"
        )
    if features.dtype == torch.int64 and features.numel():
        lowest, highest = features.aminmax()
        if max(-int(lowest), int(highest)) > _MOST_EXACT:
            _check_whole(features.detach().cpu().numpy(), what)
    return features


def _from_objects(rows: np.ndarray, what: str) -> np.ndarray:
    """Convert an array of Python objects to float64 if all of them are real numbers."""
    is_number = np.frompyfunc(lambda value: isinstance(value, int | float | np.integer | np.floating), 1, 1)
    _check_rows(~np.asarray(is_number(rows), dtype=bool), f"rows of {what} hold what is no real number", rows)
    _check_whole(rows, what)
    return rows.astype(np.float64)


def _check_whole(rows: np.ndarray, what: str) -> None:
    """Raise a `FeatureError` if whole numbers are so large that float64 would make different ones equal."""
    if rows.dtype.kind == "O":
        is_wrong = np.asarray(np.frompyfunc(_is_too_large, 1, 1)(rows), dtype=bool)
    elif rows.dtype.kind in "iu" and rows.dtype.itemsize == 8:
        is_wrong = (rows > _MOST_EXACT) | (rows < -_MOST_EXACT if rows.dtype.kind == "i" else False)
    else:
        return
    _check_rows(is_wrong, f"rows of {what} hold whole numbers beyond 2^53, which float64 cannot tell apart", rows)


def _is_too_large(value: Any) -> bool:
    return isinstance(value, int | np.integer) and abs(int(value)) > _MOST_EXACT


def _check_rows(is_wrong: np.ndarray, what: str, rows: np.ndarray) -> None:
    """Raise a `FeatureError` that counts the rows with a wrong value and shows the first."""
    bad = np.asarray(is_wrong.reshape(len(is_wrong), -1).any(axis=1) if is_wrong.ndim else is_wrong.reshape(1))
    if not bad.any():
        return
    row = int(bad.argmax())
    value = np.ravel(np.atleast_1d(rows)[row])[np.ravel(np.atleast_1d(is_wrong)[row]).argmax()]
    raise FeatureError(f"{int(bad.sum())} of {len(bad)} {what}; the first is row {row}, with {value!r:.60}")


def as_float32(rows: Rows) -> np.ndarray:
    """Return float32 rows in C order, copied only where they must be."""
    array = rows.float().numpy() if isinstance(rows, torch.Tensor) else rows
    return np.ascontiguousarray(array, dtype=np.float32)


def as_float64(rows: Rows) -> np.ndarray:
    """Return rows as float64."""
    return rows.double().numpy() if isinstance(rows, torch.Tensor) else np.asarray(rows, dtype=np.float64)


def exceeds_float32(rows: Rows) -> bool:
    """Return whether the type of the rows has values that float32 cannot represent exactly."""
    if isinstance(rows, torch.Tensor):
        return rows.dtype in (torch.float64, torch.int32, torch.int64, torch.uint32, torch.uint64)
    return (rows.dtype.kind == "f" and rows.dtype.itemsize > 4) or (rows.dtype.kind in "iu" and rows.dtype.itemsize > 2)


def check_pair(query: Rows, gallery: Rows) -> None:
    """Check that both sides are matrices [Q, D] and [G, D] with the same D.

    Raises:
        ValueError: they are not.
    """
    shapes = tuple(query.shape), tuple(gallery.shape)
    if not all(len(shape) == 2 and shape[1] for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise ValueError(
            f"query descriptors {list(shapes[0])} and gallery descriptors {list(shapes[1])} must be [Q, D] and [G, D] "
            "with one D"
        )


def check_finite_rows(features: ArrayLike, side: str) -> None:
    """Check that all descriptors are finite.

    Args:
        features: descriptors [N, D].
        side: what a row is, for the error message ("query image").

    Raises:
        FeatureError: names the first row that is not finite and counts them.
    """
    rows: Any = rows_on_cpu(features)
    bad: list[int] = []
    for start in range(0, len(rows), _CHECKED_ROWS):
        part = rows[start : start + _CHECKED_ROWS]
        part = part if isinstance(part, torch.Tensor) else torch.from_numpy(np.array(part, dtype=np.float64))
        bad += (start + (~part.isfinite().flatten(1).all(dim=1)).nonzero().flatten()).tolist()
    if bad:
        raise FeatureError(
            f"the descriptor of {side} {bad[0]} is not finite ({len(bad)} of {len(rows)} are not); {DIVERGED}"
        )


@contextmanager
def explaining_nonfinite(query: ArrayLike, gallery: ArrayLike) -> Iterator[None]:
    """Make a ValueError of the block say which descriptors are not finite, if some are not.

    Checking all of them beforehand would cost a pass over them; the computation stops at the first one anyway.
    """
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        try:
            check_finite_rows(query, "query image")
            check_finite_rows(gallery, "gallery image")
        except FeatureError as better:
            raise better from error
        raise
