"""Distances and products of given pairs of descriptors, and of all pairs in given lists."""

from __future__ import annotations

import numpy as np

from fastreid.retrieval import compiled_engine
from fastreid.retrieval.metric import fit_metric, metric_named, squared_lengths

_NUMBERS = 2**24  # numbers that are copied together without compiled kernels


def products_of_pairs(
    rows: np.ndarray, centre: np.ndarray, left: np.ndarray, right: np.ndarray, num_threads: int
) -> np.ndarray:
    """Return the inner product of each pair of rows, both minus a centre.

    Args:
        rows: float32 [N, D].
        centre: float32 [D].
        left: rows of the pairs, int32 [M].
        right: the other rows of the pairs, int32 [M].
        num_threads: number of threads of the compiled kernel.

    Returns:
        float32 [M].
    """
    if compiled_engine.is_available():
        from fastreid.retrieval.rank_cylib.rank_cy import products_of_rows

        return products_of_rows(rows, centre, left, right, num_threads)
    parts = np.array_split(np.arange(len(left)), max(1, len(left) * rows.shape[1] // _NUMBERS))
    return np.concatenate(
        [np.einsum("nd,nd->n", rows[left[part]] - centre, rows[right[part]] - centre) for part in parts]
    )


def products_in_lists(rows: np.ndarray, lists: np.ndarray, num_threads: int) -> np.ndarray:
    """Return the inner products of all pairs of the rows that a list names.

    Args:
        rows: float32 [N, D].
        lists: rows, int32 [M, k].
        num_threads: number of threads of the compiled kernel.

    Returns:
        float32 [M, k (k - 1) / 2], the upper triangle of each k x k matrix, row by row.
    """
    if compiled_engine.is_available():
        from fastreid.retrieval.rank_cylib import rank_cy

        return rank_cy.products_in_lists(rows, np.ascontiguousarray(lists), num_threads)
    k = lists.shape[1]
    first, second = np.triu_indices(k, 1)
    parts = np.array_split(lists, max(1, lists.size * rows.shape[1] // _NUMBERS))
    products = [rows[part] @ rows[part].transpose(0, 2, 1) for part in parts]
    return np.concatenate([product[:, first, second] for product in products])


def distances_of_pairs(
    rows: np.ndarray, left: np.ndarray, right: np.ndarray, metric: str, num_threads: int
) -> np.ndarray:
    """Return float32 distances of pairs of rows; those of the metric, up to the last bits.

    Args:
        rows: float32 [N, D].
        left: rows of the pairs, int32 [M].
        right: the other rows of the pairs, int32 [M].
        metric: as `nearest_neighbors`.
        num_threads: number of threads of the compiled kernel.

    Returns:
        float32 [M].
    """
    fitted = fit_metric(metric_named(metric), rows, rows)
    rows, factors, offsets = fitted.scales(rows, 0, "image", num_threads)
    if fitted.metric.normalizes and not fitted.is_centred and _are_usual(factors):
        lengths = np.sqrt(squared_lengths(rows, num_threads=num_threads))
        lengths = np.where(lengths > 0, lengths, 1).astype(np.float32)
        return 1 - products_of_pairs(rows, fitted.centre, left, right, num_threads) / (lengths[left] * lengths[right])
    centre = fitted.centre
    if fitted.metric.normalizes:
        rows, centre = fitted.centred(rows, factors), np.zeros_like(centre)
    products = products_of_pairs(rows, centre, left, right, num_threads)
    distances = offsets[left] + offsets[right] + np.float32(fitted.metric.slope) * products
    return np.maximum(distances, np.float32(fitted.lowest))


def _are_usual(factors: np.ndarray) -> bool:
    """Return whether products of rows with these factors fit float32."""
    return bool(((factors > 2.0**-50) & (factors < 2.0**50)).all())
