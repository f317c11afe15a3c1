"""What descriptors may be: real numbers of a known type, all finite; what is not is named by its row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import ArrayLike

from fastreid.utils.errors import UserError

Rows = np.ndarray | torch.Tensor

_ROWS_AT_ONCE = 4096
_WORDS = {"c": "complex numbers", "U": "text", "S": "text", "M": "dates", "m": "time spans", "V": "records"}
_TORCH = (
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool,
)  # fmt: skip
DIVERGED = "did the model diverge?"


class FeatureError(UserError, ValueError):
    """Descriptors that cannot be scored; names the first of them."""


def real_rows(features: ArrayLike, what: str = "descriptors") -> Rows:
    """Descriptors, or distances, as an array of real numbers; a tensor stays one if it is bfloat16, which NumPy lacks.

    What is mapped into memory stays so, and nothing is copied that need not be. Whether the numbers are finite is seen
    when they are used.

    Raises:
        FeatureError: complex numbers, text, dates, objects, ragged rows; a tensor of another kind; masked values.
    """
    if isinstance(features, torch.Tensor):
        features = in_place(features, what).detach().cpu()
        return features if features.dtype == torch.bfloat16 else features.numpy()
    try:
        rows = np.asanyarray(features)
    except ValueError as error:
        raise FeatureError(f"{what} must be rows of equally many numbers: {error}") from error
    if rows.dtype.kind == "O":
        return _of_objects(rows, what)
    if rows.dtype.kind not in "fiub":
        raise FeatureError(
            f"{what} must be real numbers, but all {len(rows) if rows.ndim else 1} rows are "
            f"{_WORDS.get(rows.dtype.kind, 'of another kind')} ({rows.dtype})"
        )
    if isinstance(rows, np.ma.MaskedArray):
        _refuse_rows(np.ma.getmaskarray(rows), f"rows of {what} are masked", rows)
    return rows if isinstance(rows, np.memmap) else np.asarray(rows)


def in_place(features: ArrayLike, what: str = "descriptors") -> Rows:
    """The same, but tensors stay as and where they are, as on a GPU.

    Raises:
        FeatureError: as `real_rows`.
    """
    if not isinstance(features, torch.Tensor):
        return real_rows(features, what)
    if features.is_meta:
        raise FeatureError(f"{what} are a tensor on the device meta, which holds no numbers")
    if features.dtype not in _TORCH or features.layout is not torch.strided:
        raise FeatureError(
            f"{what} must be a dense tensor of real numbers, got {features.dtype} ({features.layout}); convert "
            "them with .float()"
        )
    return features


def _of_objects(rows: np.ndarray, what: str) -> np.ndarray:
    """An array of Python objects, if all of them are real numbers."""
    is_number = np.frompyfunc(lambda value: isinstance(value, int | float | np.integer | np.floating), 1, 1)
    _refuse_rows(~np.asarray(is_number(rows), dtype=bool), f"rows of {what} hold what is no real number", rows)
    return rows.astype(np.float64)


def _refuse_rows(wrong: np.ndarray, what: str, rows: np.ndarray) -> None:
    bad = wrong.reshape(len(wrong), -1).any(axis=1) if wrong.ndim else wrong.reshape(1)
    if not bad.any():
        return
    row = int(bad.argmax())
    values = np.atleast_1d(rows)[row]
    shown = np.ravel(values)[np.ravel(np.atleast_1d(wrong)[row]).argmax()]
    raise FeatureError(f"{int(bad.sum())} of {len(bad)} {what}; the first is row {row}, with {shown!r:.60}")


def check_finite_rows(features: ArrayLike, side: str) -> None:
    """Raises: FeatureError naming the first row of `side` ("query image") that is not finite, and how many are not."""
    rows = real_rows(features)
    bad = []
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[start : start + _ROWS_AT_ONCE]
        part = part if isinstance(part, torch.Tensor) else torch.from_numpy(np.array(part, dtype=np.float64))
        bad += (start + (~part.isfinite().flatten(1).all(dim=1)).nonzero().flatten()).tolist()
    if bad:
        raise FeatureError(
            f"the descriptor of {side} {bad[0]} is not finite ({len(bad)} of {len(rows)} are not); {DIVERGED}"
        )


@contextmanager
def naming_rows(query: ArrayLike, gallery: ArrayLike) -> Iterator[None]:
    """Let an error of what is computed in the block say which descriptors are not finite, and how many.

    Looking at all of them first would cost a pass over them; whatever computes stops at the first anyway.
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
