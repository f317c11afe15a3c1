"""Products of given pairs of descriptors, and of all pairs in given lists."""

from __future__ import annotations

import numpy as np

from fastreid.retrieval import compiled_engine

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
