"""The few of all Jaccard distances that decide HDBSCAN's clusters, found some rows at a time.

HDBSCAN builds its clusters from a minimum spanning tree of the mutual reachability, max(d(i, j), core(i), core(j)).
core(i) is the distance of i to its `min_samples`-th nearest image, itself included. So the distances up to that, and
those of the tree, give the same clusters as all distances, of which there may be thousands for each image.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from fastreid.retrieval.jaccard import JaccardRows

MISSING = 1.0
"""Jaccard distance of images without a common neighbour, whose entries are not stored."""
SHORTEST = float(np.finfo(np.float32).eps)
"""Distances below it are raised to it: scipy's spanning trees drop edges of length zero, as copies of an image have."""
_BLOCK_ROWS = 1024


def spanning_graph(rows: JaccardRows, min_samples: int) -> sparse.csr_matrix:
    """Return the distances of each image to its nearest ones, and those of a minimum spanning tree.

    Args:
        rows: Jaccard distances among all images.
        min_samples: images near a core point, itself included.

    Returns:
        float32 [M, M], symmetric, without its diagonal; all values are below 1. Edges of the tree that are not among
        the nearest images have the mutual reachability as their distance.
    """
    near, cores = _nearest(rows, min_samples - 1)
    near, tree = _symmetric(near), _symmetric(_spanning_tree(rows, cores))
    return (near + (tree - tree.multiply(near.astype(bool)))).tocsr()  # exactly one of both


def _blocks(rows: JaccardRows) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield rows, columns and distances below 1 off the diagonal; rows ascend."""
    for first in range(0, rows.num_rows, _BLOCK_ROWS):
        block = rows.between(first, min(first + _BLOCK_ROWS, rows.num_rows), MISSING).tocoo()
        row = block.row + np.int32(first)
        is_pair = (row != block.col) & (block.data < MISSING)
        yield row[is_pair], block.col[is_pair], np.maximum(block.data[is_pair], np.float32(SHORTEST))


def _nearest(rows: JaccardRows, count: int) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Return the distances of each image to its `count` nearest others, and the greatest of them, or 1."""
    size, parts = rows.num_rows, []
    cores = np.full(size, MISSING if count else 0, dtype=np.float32)
    for row, column, distance in _blocks(rows):
        order = np.lexsort((distance, row))
        row, column, distance = row[order], column[order], distance[order]
        rank = np.arange(len(row)) - np.searchsorted(row, row)
        is_last = rank == count - 1
        cores[row[is_last]] = distance[is_last]
        is_near = rank < count
        parts.append((row[is_near], column[is_near], distance[is_near]))
    return _matrix(parts, size), cores


def _spanning_tree(rows: JaccardRows, cores: np.ndarray) -> sparse.csr_matrix:
    """Return a minimum spanning forest of the mutual reachability, of edges below 1.

    An edge that is not in the forest of some of the edges is in none of all edges, so blocks are added to it in turn.
    """
    size = rows.num_rows
    tree = sparse.csr_matrix((size, size), dtype=np.float32)
    for row, column, distance in _blocks(rows):
        reach = np.maximum(distance, np.maximum(cores[row], cores[column]))
        is_new = (row < column) & (reach < MISSING)
        block = _matrix([(row[is_new], column[is_new], reach[is_new])], size)
        tree = csgraph.minimum_spanning_tree(tree + block).astype(np.float32)
    return tree


def _matrix(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]], size: int) -> sparse.csr_matrix:
    """Return the matrix [size, size] of rows, columns and values in parts."""
    rows, columns, values = (np.concatenate(part) for part in zip(*parts, strict=True))
    return sparse.csr_matrix((values, (rows, columns)), shape=(size, size))


def _symmetric(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return a matrix with the entries of both directions; those of one pair are equal."""
    return matrix.maximum(matrix.T.tocsr())
