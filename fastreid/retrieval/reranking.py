"""k-reciprocal re-ranking (Zhong et al., CVPR 2017) on sparse matrices: exact, and without an N x N matrix.

An image is described by its k-reciprocal neighbours, a few dozen of thousands of images. So these descriptions are the
rows of a sparse matrix V, and the Jaccard distance of two images, 1 - sum min(V_i, V_j) / sum max(V_i, V_j), differs
from 1 only where they share a neighbour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import sparse

from fastreid.config import resolve_device
from fastreid.retrieval import compiled_engine
from fastreid.retrieval.coordinates import joined, space_of, squared_lengths
from fastreid.retrieval.distances import Distances
from fastreid.retrieval.metric import as_rows, check_pair, metric_named
from fastreid.retrieval.neighbors import Neighbors, nearest_neighbors
from fastreid.utils.counts import thread_count, whole_number
from fastreid.utils.suggest import explain_choice

_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Definition:
    """Where published programs of the same name and the same k1 differ."""

    neighbors_beyond_itself: bool  # a list of k1 is the image and k1 others, or k1 with the image
    normalizes: bool  # weights exp(-d / greatest d of the image), or exp(-squared Euclidean distance)


DEFINITIONS = {
    # The paper and its authors' code.
    "zhong": Definition(neighbors_beyond_itself=True, normalizes=True),
    # What unsupervised methods cluster by (Ge et al., SpCL, NeurIPS 2020, and their followers).
    "spcl": Definition(neighbors_beyond_itself=False, normalizes=False),
}


def jaccard_graph(
    features: ArrayLike,
    *,
    k1: int = 30,
    k2: int = 6,
    max_distance: float = 0.6,
    definition: str = "spcl",
    metric: str = "cosine",
    search: str = "auto",
    device: str | torch.device = "cpu",
    num_threads: int | None = None,
) -> sparse.csr_matrix:
    """Jaccard distances among all images, only those that matter: what DBSCAN takes as a graph of neighbours.

    Args:
        features: [N, D].
        k1, k2: neighbours that describe an image, and over whose descriptions it is averaged (1: not).
        max_distance: greater distances are left out; DBSCAN's `eps` needs no more, and 1 keeps all that differ from 1.
        definition: "spcl" or "zhong" (`DEFINITIONS`).
        metric, search, device, num_threads: as `nearest_neighbors`.
    Returns: float32 [N, N], symmetric, columns ascending. An image's distance to itself is among them, 0 or a rounding
        error above, unless more than k1 copies of it stand before it.
    Raises: ValueError as `nearest_neighbors`, and for k1, k2 below 1.
    """
    described = _describe(features, k1, k2, definition, metric, search, device, num_threads)[0]
    return _Jaccard(described, described, num_threads).between(0, described.shape[0], max_distance)


def jaccard_distances(
    query: ArrayLike,
    gallery: ArrayLike,
    *,
    k1: int = 20,
    k2: int = 6,
    definition: str = "spcl",
    metric: str = "cosine",
    search: str = "auto",
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Jaccard distances float32 [Q, G] by the neighbours among all images; arguments and errors as `jaccard_graph`."""
    everyone, num_queries = joined(query, gallery, metric), len(query)
    described = _describe(everyone, k1, k2, definition, metric, search, device, None)[0]
    near = _Jaccard(described[:num_queries], described[num_queries:]).between(0, num_queries, 1.0).tocoo()
    distances = np.ones((num_queries, len(gallery)), dtype=np.float32)
    distances[near.row, near.col] = near.data
    return distances


class RerankedDistances(Distances):
    """(1 - weight) * Jaccard distance + weight * distance / the query's greatest distance to any image.

    As Zhong et al. define it on squared Euclidean distances; cosine ones are these but for a factor that cancels out.
    """

    bounds = (0.0, 1.0)

    def __init__(
        self,
        plain: Distances,
        query: ArrayLike,
        gallery: ArrayLike,
        *,
        k1: int = 20,
        k2: int = 6,
        weight: float = 0.3,
        metric: str = "cosine",
        search: str = "auto",
        device: str | torch.device = "cpu",
    ) -> None:
        """Args:
        plain: the distances of `query` [Q, D] to `gallery` [G, D].
        k1, k2: as `jaccard_graph`; the paper's for Market-1501 are 20 and 6.
        weight: lambda, of the plain distance.
        """
        if not 0 <= weight <= 1:
            raise ValueError(f"the weight of the plain distance (TEST.RERANK.LAMBDA) must lie in 0 … 1, got {weight}")
        everyone = joined(query, gallery, metric)
        described, nearest = _describe(everyone, k1, k2, "zhong", metric, search, device, None)
        self._plain, self._weight = plain, weight
        self.shape, self.rows_at_once = plain.shape, plain.rows_at_once
        num_queries = self.shape[0]
        self._greatest = _above_zero(nearest.farthest[:num_queries])
        self._jaccard = _Jaccard(described[:num_queries], described[num_queries:])

    def block(self, first: int, stop: int, out: Any = None) -> np.ndarray:
        block = self._plain.rows(first, stop, out)
        block = block if block.flags.writeable else block.copy()
        near = self._jaccard.between(first, stop, max_distance=1.0)
        rest = np.float32(1 - self._weight)
        for row, starts, greatest in zip(
            block, zip(near.indptr[:-1], near.indptr[1:], strict=True), self._greatest[first:stop], strict=True
        ):
            row *= np.float32(self._weight) / greatest
            images = near.indices[slice(*starts)]
            own = row[images] + rest * near.data[slice(*starts)]
            row += rest  # far images: their Jaccard distance is 1
            row[images] = own
        return block


def _describe(
    features: ArrayLike,
    k1: int,
    k2: int,
    definition: str,
    metric: str,
    search: str,
    device: str | torch.device,
    num_threads: int | None,
) -> tuple[sparse.csr_matrix, Neighbors]:
    """Descriptions V [N, N] of all images by their k-reciprocal neighbours, and the neighbours they come from."""
    if definition not in DEFINITIONS:
        raise ValueError(explain_choice("definition of the Jaccard distance", definition, DEFINITIONS))
    k1, k2 = whole_number(k1, "k1", 1), whole_number(k2, "k2", 1)
    num_threads, device = thread_count(num_threads), torch.device(resolve_device(device, key="device"))
    how = DEFINITIONS[definition]
    rows = as_rows(features)
    check_pair(rows, rows)
    rows = space_of(metric_named(metric), rows, rows).read(rows)
    wide = min(len(rows), k1 + how.neighbors_beyond_itself)
    options = {"metric": metric, "search": search, "device": device, "num_threads": num_threads}
    nearest = nearest_neighbors(rows, min(len(rows), max(wide, k2)), with_farthest=how.normalizes, **options)
    members = _expanded(_reciprocal(nearest, wide), _reciprocal(nearest, min(wide, round(k1 / 2) + 1)))
    described = _weighted(members, rows, nearest, how, metric, num_threads)
    if k2 > 1:
        k2 = min(k2, len(rows))
        described = (_lists(nearest, k2, 1 / k2) @ described).tocsr()  # local query expansion
        described.sort_indices()
    return described, nearest


def _lists(nearest: Neighbors, k: int, value: float = 1.0) -> sparse.csr_matrix:
    """Row i: `value` at the k nearest images of i."""
    indices = nearest.indices[:, :k]
    starts = np.arange(len(indices) + 1) * indices.shape[1]
    values = np.full(indices.size, value, dtype=np.float32)
    return sparse.csr_matrix((values, indices.ravel(), starts), shape=(len(indices), len(indices)))


def _reciprocal(nearest: Neighbors, k: int) -> sparse.csr_matrix:
    """R(i, k): j among the k nearest of i, and i among those of j (eq. 2)."""
    lists = _lists(nearest, k)
    return lists.multiply(lists.T.tocsr()).tocsr()


def _expanded(reciprocal: sparse.csr_matrix, half: sparse.csr_matrix) -> sparse.csr_matrix:
    """R*(i): with R(q, k1 / 2) of each member q of which more than two thirds are members already (eq. 3)."""
    shared = reciprocal.multiply(reciprocal @ half.T).tocoo()  # of members q only
    sizes = np.diff(half.indptr)
    taken = 3 * shared.data > 2 * sizes[shared.col]
    ones = np.ones(int(taken.sum()), dtype=np.float32)
    chosen = sparse.csr_matrix((ones, (shared.row[taken], shared.col[taken])), shape=reciprocal.shape)
    members = (reciprocal + chosen @ half).tocsr()
    members.sort_indices()
    return members


def _weighted(
    members: sparse.csr_matrix,
    rows: np.ndarray,
    nearest: Neighbors,
    how: Definition,
    metric: str,
    num_threads: int | None,
) -> sparse.csr_matrix:
    """V: exp(-distance) of the members, each row to a sum of one (eq. 7)."""
    counts = np.diff(members.indptr)
    image = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    distances = _distances_of_pairs(rows, image, members.indices.astype(np.int32, copy=False), metric, num_threads)
    if how.normalizes:
        distances = distances / _above_zero(nearest.farthest)[image]
    elif metric == "cosine":
        distances = 2 * distances  # |a - b|^2 = 2 - 2 cos
    distances[image == members.indices] = 0
    starts, has_any = members.indptr[:-1][counts > 0], counts > 0
    least = np.zeros(len(counts), dtype=np.float32)
    least[has_any] = np.minimum.reduceat(distances, starts)
    weights = np.exp(least[image] - distances)  # as large as can be: what is far must not leave nothing
    sums = np.ones(len(counts), dtype=np.float32)
    sums[has_any] = np.add.reduceat(weights, starts)
    weights = (weights / sums[image]).astype(np.float32)
    return sparse.csr_matrix((weights, members.indices, members.indptr), shape=members.shape)


def _distances_of_pairs(
    rows: np.ndarray, left: np.ndarray, right: np.ndarray, metric: str, num_threads: int | None
) -> np.ndarray:
    """float32 [pairs], as `metric` has them but for the last bits."""
    space, threads = space_of(metric_named(metric), rows, rows), thread_count(num_threads)
    rows, factors, offsets = space.scales(rows, 0, "image", threads)
    if space.metric.normalizes and not space.is_centred and _are_usual(factors):
        lengths = np.sqrt(squared_lengths(rows, num_threads=threads))
        lengths = np.where(lengths > 0, lengths, 1).astype(np.float32)
        return 1 - _products(rows, space.centre, left, right, threads) / (lengths[left] * lengths[right])
    centre = space.centre
    if space.metric.normalizes:
        rows, centre = space.placed(rows, factors), np.zeros_like(centre)
    products = _products(rows, centre, left, right, threads)
    distances = offsets[left] + offsets[right] + np.float32(space.metric.slope) * products
    return np.maximum(distances, np.float32(space.lowest))


def _are_usual(factors: np.ndarray) -> bool:
    """Whether float32 holds products of rows with these factors."""
    return bool(((factors > 2.0**-50) & (factors < 2.0**50)).all())


def _products(rows: np.ndarray, centre: np.ndarray, left: np.ndarray, right: np.ndarray, threads: int) -> np.ndarray:
    if compiled_engine.is_available():
        from fastreid.retrieval.rank_cylib.rank_cy import products_of_rows

        return products_of_rows(rows, centre, left, right, threads)
    parts = np.array_split(np.arange(len(left)), max(1, len(left) * rows.shape[1] // 2**24))
    return np.concatenate(
        [np.einsum("nd,nd->n", rows[left[part]] - centre, rows[right[part]] - centre) for part in parts]
    )


class _Jaccard:
    """Jaccard distances of the rows of one sparse matrix to those of another, a few rows at a time."""

    def __init__(self, rows: sparse.csr_matrix, others: sparse.csr_matrix, num_threads: int | None = None) -> None:
        by_column = others.tocsc()
        by_column.sort_indices()
        self._rows, self._by_column = _plain(rows), _plain(by_column)
        self._num_others = others.shape[0]
        lengths = np.append(np.diff(by_column.indptr)[rows.indices], 0)
        touched = np.add.reduceat(lengths, rows.indptr[:-1]) * (np.diff(rows.indptr) > 0)
        self._room = np.minimum(touched, self._num_others).astype(np.int64)
        self._num_threads = thread_count(num_threads)

    def between(self, first: int, last: int, max_distance: float) -> sparse.csr_matrix:
        """Rows first … last - 1; distances that are not stored are greater than `max_distance`, or 1."""
        count = self._compiled if compiled_engine.is_available() else self._summed
        parts = [
            count(start, min(start + _ROWS_AT_ONCE, last), max_distance) for start in range(first, last, _ROWS_AT_ONCE)
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

    def _summed(self, first: int, last: int, max_distance: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where nothing is compiled: every pair of weights in one list, which SciPy adds up."""
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


def _plain(matrix: sparse.csr_matrix | sparse.csc_matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts, indices and values, of the types that the kernels take."""
    return matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32, copy=False), matrix.data


def _above_zero(values: np.ndarray) -> np.ndarray:
    """Of images that are all the same, one: nothing is to be scaled."""
    return np.where(values > 0, values, np.float32(1))
