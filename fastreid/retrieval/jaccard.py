"""Jaccard distances between the rows of sparse matrices."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from fastreid.retrieval import compiled_engine
from fastreid.utils.counts import thread_count

_BLOCK_ROWS = 1024  # rows whose Jaccard distances are computed together


class JaccardRows:
    """Jaccard distances between the rows of two sparse matrices, computed a few rows at a time.

    Args:
        rows: encodings [M, N].
        others: encodings [L, N].
        num_threads: as `nearest_neighbors`.
    """

    def __init__(self, rows: sparse.csr_matrix, others: sparse.csr_matrix, num_threads: int | None = None) -> None:
        self.num_rows = rows.shape[0]
        by_column = others.tocsc()
        by_column.sort_indices()
        self._rows, self._by_column = _arrays(rows), _arrays(by_column)
        self._num_others = others.shape[0]
        lengths = np.append(np.diff(by_column.indptr)[rows.indices], 0)
        touched = np.add.reduceat(lengths, rows.indptr[:-1]) * (np.diff(rows.indptr) > 0)
        self._room = np.minimum(touched, self._num_others).astype(np.int64)
        self._num_threads = thread_count(num_threads)

    def between(self, first: int, last: int, max_distance: float) -> sparse.csr_matrix:
        """Return rows `first` to `last` - 1; distances that are not stored are greater than `max_distance`, or 1."""
        if first == last:
            return sparse.csr_matrix((0, self._num_others), dtype=np.float32)
        compute = self._compiled if compiled_engine.is_available() else self._uncompiled
        parts = [
            compute(start, min(start + _BLOCK_ROWS, last), max_distance) for start in range(first, last, _BLOCK_ROWS)
        ]
        counts, indices, distances = (np.concatenate(part) for part in zip(*parts, strict=True))
        starts = np.concatenate([[0], counts.cumsum()])
        return sparse.csr_matrix((distances, indices, starts), shape=(last - first, self._num_others))

    def _compiled(self, first: int, last: int, max_distance: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        from fastreid.retrieval.rank_cylib.rank_cy import jaccard_rows

        bounds = np.concatenate([[0], self._room[first:last].cumsum()])
        matrices = *self._rows, *self._by_column
        sizes = self._num_others, first, last
        return jaccard_rows(*matrices, *sizes, max_distance, bounds, self._num_threads)

    def _uncompiled(self, first: int, last: int, max_distance: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """List every pair of weights and let SciPy add them; used where nothing is compiled."""
        starts, columns, weights = self._rows
        column_starts, others, other_weights = self._by_column
        entries = slice(starts[first], starts[last])
        row = np.repeat(np.arange(last - first), np.diff(starts[first : last + 1]))
        lengths = np.diff(column_starts)[columns[entries]]
        entry = np.repeat(column_starts[columns[entries]] - lengths.cumsum() + lengths, lengths) + np.arange(
            lengths.sum()
        )
        lesser = np.minimum(np.repeat(weights[entries], lengths), other_weights[entry])
        shape = last - first, self._num_others
        shared = sparse.coo_matrix((lesser, (np.repeat(row, lengths), others[entry])), shape=shape).tocsr()
        shared.sort_indices()
        distances = np.maximum(1 - shared.data / (2 - shared.data), 0).astype(np.float32)
        kept = distances <= max_distance
        row = np.repeat(np.arange(last - first), np.diff(shared.indptr))[kept]
        return np.bincount(row, minlength=last - first), shared.indices[kept], distances[kept]


def _arrays(matrix: sparse.csr_matrix | sparse.csc_matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return starts, indices and values in the types that the kernels take."""
    return matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32, copy=False), matrix.data
