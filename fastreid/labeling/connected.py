"""What HDBSCAN needs beside a sparse graph of distances: one component, full rows, and which images are alone.

It takes no graph of several components, and puts images that are at distance 1 from all others into any cluster.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from fastreid.labeling.spanning import MISSING


def connected(graph: sparse.csr_matrix, min_entries: int) -> sparse.csr_matrix:
    """Return a graph with entries of distance 1 added, which is exactly the distance of entries that are not stored.

    Args:
        graph: float32 [M, M], symmetric, as of `spanning_graph`.
        min_entries: entries that each row must have, its own included, at most M.

    Returns:
        float32 [M, M], symmetric, the diagonal zero and stored, in one component.
    """
    size = graph.shape[0]
    rows, columns, distances = _pairs(graph)
    known = sparse.csr_matrix((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=graph.shape)
    added = _new_pairs([_between_components(known), _for_short_rows(known, min_entries - 1)], known)
    every = np.arange(size)
    values = [distances, np.full(len(added[0]), MISSING), np.zeros(size)]
    where = [np.concatenate(parts) for parts in ((rows, added[0], every), (columns, added[1], every))]
    completed = sparse.coo_matrix((np.concatenate(values).astype(np.float32), where), shape=graph.shape).tocsr()
    completed.sort_indices()
    return completed


def alone(graph: sparse.csr_matrix, min_samples: int, smallest: int) -> np.ndarray:
    """Return which images cannot be in a cluster, bool [M].

    They have fewer than `min_samples` images below distance 1, themselves included, or are connected with fewer than
    `smallest` images that have as many.

    Args:
        graph: float32 [M, M], symmetric, as of `spanning_graph`.
        min_samples: images near a core point, itself included.
        smallest: images of the smallest cluster.
    """
    rows, columns, _ = _pairs(graph)
    is_core = np.bincount(rows, minlength=graph.shape[0]) + 1 >= min_samples
    is_kept = is_core[rows] & is_core[columns]
    ones = np.ones(int(is_kept.sum()), dtype=np.int8)
    cores = sparse.csr_matrix((ones, (rows[is_kept], columns[is_kept])), shape=graph.shape)
    _, component = csgraph.connected_components(cores, directed=False)
    return ~is_core | (np.bincount(component)[component] < smallest)


def _pairs(graph: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows, columns and values of the entries off the diagonal."""
    stored = graph.tocoo()
    is_pair = stored.row != stored.col
    return stored.row[is_pair], stored.col[is_pair], stored.data[is_pair]


def _between_components(known: sparse.csr_matrix) -> np.ndarray:
    """Return pairs [P, 2] that join each component with the next one, by their first images."""
    _, component = csgraph.connected_components(known, directed=False)
    _, first = np.unique(component, return_index=True)
    return np.stack([first[:-1], first[1:]], axis=1)


def _for_short_rows(known: sparse.csr_matrix, count: int) -> np.ndarray:
    """Return `count` pairs [P, 2] of each row with fewer than that: with the images after it, and around the end."""
    size = known.shape[0]
    short = np.flatnonzero(np.diff(known.indptr) < count)
    others = (short[:, None] + np.arange(1, count + 1)) % size
    return np.stack([np.repeat(short, count), others.ravel()], axis=1)


def _new_pairs(found: list[np.ndarray], known: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of the pairs, in both directions, that are not known."""
    pairs = np.concatenate(found)
    ones = np.ones(2 * len(pairs), dtype=np.int8)
    rows, columns = np.concatenate([pairs, pairs[:, ::-1]]).T
    wanted = sparse.csr_matrix((ones, (rows, columns)), shape=known.shape)
    wanted.data[:] = 1
    new = (wanted - wanted.multiply(known)).tocoo()
    is_new = new.data > 0
    return new.row[is_new], new.col[is_new]
