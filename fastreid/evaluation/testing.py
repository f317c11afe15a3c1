"""Printing, checking and flattening results, at fast-reid's module path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastreid.evaluation.expected import verify_results
from fastreid.evaluation.results import print_csv_format

__all__ = ["flatten_results_dict", "print_csv_format", "verify_results"]


def flatten_results_dict(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return {"a/b": value} of {"a": {"b": value}}, to any depth; values at the top keep their names.

    Args:
        results: figures of an evaluation.
    """
    flat: dict[str, Any] = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}/{below}": leaf for below, leaf in flatten_results_dict(value).items()}
        else:
            flat[name] = value
    return flat
