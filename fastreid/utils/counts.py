"""Checks of whole numbers, such as numbers of threads, before compiled code uses them."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch

from fastreid.utils.errors import ArgumentError

MOST_THREADS = 4096


def whole_number(value: Any, name: str, low: int | None = None, high: int | None = None) -> int:
    """Return the value as a Python int if it is a whole number from `low` to `high`.

    Args:
        value: the value.
        name: name of the number, for the error.
        low: lower bound; None: no bound.
        high: upper bound; None: no bound.

    Raises:
        ArgumentError: another type (2.5, 2.0, "5", None, True), or out of the range.
    """
    is_bool = isinstance(value, bool) or getattr(value, "dtype", None) in (bool, torch.bool)
    try:
        if is_bool:
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ArgumentError(
            f"{name} must be a whole number, such as {max(low or 1, 1)}, got {value!r:.60} ({type(value).__name__})"
        ) from None
    if (low is not None and number < low) or (high is not None and number > high):
        allowed = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ArgumentError(f"{name} must be {allowed}, got {number}")
    return number


def yes_or_no(value: Any, name: str) -> bool:
    """Return the value if it is true or false, of Python or NumPy.

    Args:
        value: the value.
        name: name of the argument, for the error.

    Raises:
        ArgumentError: another type, such as the text "False".
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise ArgumentError(f"{name} must be True or False, got {value!r:.60} ({type(value).__name__})")


def thread_count(value: Any, name: str = "num_threads") -> int:
    """Return the number of threads to start: the value itself, or the number of torch for None and 0.

    OpenMP would end the process for impossible numbers.

    Args:
        value: the value.
        name: name of the number, for the error.

    Raises:
        ArgumentError: neither None nor a whole number from 0 to 4096.
    """
    if value is None:
        return torch.get_num_threads()
    return whole_number(value, f"{name} (0 or None for torch's number)", 0, MOST_THREADS) or torch.get_num_threads()
