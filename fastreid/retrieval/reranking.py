"""k-reciprocal re-ranking (Zhong et al., CVPR 2017) on sparse matrices: exact, and without an N x N matrix.

An image is encoded by its k-reciprocal neighbours, a few dozen of thousands of images. These encodings are the rows of
a sparse matrix V, and the Jaccard distance of two images, 1 - sum min(V_i, V_j) / sum max(V_i, V_j), differs from 1
only if they share a neighbour.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import sparse

from fastreid.retrieval.descriptors import check_pair, rows_on_cpu
from fastreid.retrieval.distances import Distances, MatrixDistances
from fastreid.retrieval.jaccard import JaccardRows
from fastreid.retrieval.metric import fit_metric, joined_rows, metric_named
from fastreid.retrieval.neighbors import Neighbors, nearest_neighbors
from fastreid.retrieval.pairs import distances_of_pairs
from fastreid.utils.counts import thread_count, whole_number
from fastreid.utils.devices import usable_device
from fastreid.utils.errors import ArgumentError
from fastreid.utils.suggest import explain_choice

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Definition:
    """The points in which published implementations with the same name and k1 differ.

    Attributes:
        neighbors_beyond_itself: whether k1 neighbours are the image and k1 others, or k1 including the image.
        normalizes: whether weights are exp(-d / greatest d of the image), or exp(-squared Euclidean distance).
    """

    neighbors_beyond_itself: bool
    normalizes: bool


DEFINITIONS = {
    # The paper and its authors' code.
    "zhong": Definition(neighbors_beyond_itself=True, normalizes=True),
    # The distance that unsupervised methods cluster by (Ge et al., SpCL, NeurIPS 2020, and later work).
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
    nearest: Neighbors | None = None,
) -> sparse.csr_matrix:
    """Return the small Jaccard distances among all images as a sparse matrix, as DBSCAN takes it.

    Args:
        features: descriptors [N, D].
        k1: number of neighbours that encode an image.
        k2: number of neighbours over whose encodings an image's is averaged; 1 for no average.
        max_distance: greater distances are not stored; DBSCAN needs its `eps`, and 1 stores all that differ from 1.
        definition: "spcl" or "zhong" (`DEFINITIONS`).
        metric: as `nearest_neighbors`.
        search: as `nearest_neighbors`.
        device: as `nearest_neighbors`.
        num_threads: as `nearest_neighbors`.
        nearest: at least `neighbors_needed` neighbours of each image, by the same features and metric, if known.

    Returns:
        float32 [N, N], symmetric, columns ascending. An image's distance to itself is stored, 0 or a rounding error
        above, unless more than k1 copies of it have lower indices.

    Raises:
        ValueError: as `nearest_neighbors`; k1 or k2 below 1.
        ArgumentError: `nearest` has too few neighbours or images, or lacks the greatest distances.
    """
    options = _SearchOptions.of(metric, search, device, num_threads)
    rows = _jaccard(features, k1, k2, definition, options, nearest)
    return rows.between(0, rows.num_rows, max_distance)


def jaccard_rows(
    features: ArrayLike,
    *,
    k1: int = 30,
    k2: int = 6,
    definition: str = "spcl",
    search: str = "auto",
    device: str | torch.device = "cpu",
    nearest: Neighbors | None = None,
) -> JaccardRows:
    """Return the Jaccard distances among all images, some rows at a time; arguments as `jaccard_graph`.

    All distances below 1 may be 100 times as many as those that DBSCAN needs.
    """
    return _jaccard(features, k1, k2, definition, _SearchOptions.of("cosine", search, device, None), nearest)


def neighbors_needed(k1: int, k2: int, definition: str = "spcl") -> int:
    """Return how many neighbours of each image Jaccard distances need, if there are as many images."""
    return max(k1 + _definition(definition).neighbors_beyond_itself, k2)


@functools.cache  # says it once
def _tell_of_few(num_images: int, k1: int, k2: int, needed: int) -> None:
    if needed > num_images:
        logger.warning(
            "k1 = %d and k2 = %d (K1 and K2 of TEST.RERANK or CLUSTER) ask for %d neighbours of each image, itself "
            "included, but there are %d images: all of them are taken",
            k1, k2, needed, num_images,
        )  # fmt: skip


def _definition(name: str) -> Definition:
    if name not in DEFINITIONS:
        raise ValueError(explain_choice("definition of the Jaccard distance", name, DEFINITIONS))
    return DEFINITIONS[name]


def _jaccard(
    features: ArrayLike, k1: int, k2: int, definition: str, options: _SearchOptions, nearest: Neighbors | None
) -> JaccardRows:
    encoded = _encode(features, k1, k2, definition, options, nearest)[0]
    return JaccardRows(encoded, encoded, options.num_threads)


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
    """Return Jaccard distances float32 [Q, G], with neighbours among all images; arguments as `jaccard_graph`."""
    images, num_queries = joined_rows(query, gallery, metric), len(rows_on_cpu(query))
    encoded = _encode(images, k1, k2, definition, _SearchOptions.of(metric, search, device, None))[0]
    near = JaccardRows(encoded[:num_queries], encoded[num_queries:]).between(0, num_queries, 1.0).tocoo()
    distances = np.ones((num_queries, len(images) - num_queries), dtype=np.float32)
    distances[near.row, near.col] = near.data
    return distances


class RerankedDistances(Distances):
    """(1 - weight) * Jaccard distance + weight * distance / the query's greatest distance to any image.

    Zhong et al. define it on squared Euclidean distances; cosine distances differ by a factor that cancels out.
    """

    bounds = (0.0, 1.0)  # type: ignore[assignment]  # a constant here

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
        """Search the neighbours and encode all images.

        Args:
            plain: the distances of `query` to `gallery`.
            query: descriptors [Q, D].
            gallery: descriptors [G, D].
            k1: as `jaccard_graph`; 20 in the paper for Market-1501.
            k2: as `jaccard_graph`; 6 in the paper for Market-1501.
            weight: lambda, the weight of the plain distance.
            metric: as `nearest_neighbors`.
            search: as `nearest_neighbors`.
            device: as `nearest_neighbors`.

        Raises:
            ValueError: as `jaccard_graph`; a weight outside of 0 to 1.
        """
        self._weight = _checked(weight)
        options = _SearchOptions.of(metric, search, device, None)
        encoded, nearest = _encode(joined_rows(query, gallery, metric), k1, k2, "zhong", options)
        self._combine(plain, encoded, nearest)

    def _combine(self, plain: Distances, encoded: sparse.csr_matrix, nearest: Neighbors) -> None:
        self._plain = plain
        self.shape, self.rows_at_once = plain.shape, plain.rows_at_once
        num_queries = self.shape[0]
        self._greatest = _farthest(nearest)[:num_queries]
        self._jaccard = JaccardRows(encoded[:num_queries], encoded[num_queries:])

    def block(self, first: int, stop: int, out: Any = None) -> np.ndarray:
        """Return re-ranked distances [stop - first, G] of queries `first` to `stop` - 1."""
        block = self._plain.rows(first, stop, out)
        block = block if block.flags.writeable else block.copy()
        near = self._jaccard.between(first, stop, max_distance=1.0)
        rest = np.float32(1 - self._weight)
        for row, starts, greatest in zip(
            block, zip(near.indptr[:-1], near.indptr[1:], strict=True), self._greatest[first:stop], strict=True
        ):
            row *= np.float32(self._weight) / greatest
            images = near.indices[slice(*starts)]
            combined = row[images] + rest * near.data[slice(*starts)]
            row += rest  # images without a common neighbour: their Jaccard distance is 1
            row[images] = combined
        return block


class RerankedMatrix(RerankedDistances):
    """`RerankedDistances` of images of which all distances are given, as published code takes them."""

    def __init__(self, everyone: np.ndarray, num_queries: int, *, k1: int, k2: int, weight: float) -> None:
        """Encode all images.

        Args:
            everyone: finite distances float32 [N, N], queries first; Zhong et al. take squared Euclidean ones.
            num_queries: number of queries.
            k1: as `RerankedDistances`.
            k2: as `RerankedDistances`.
            weight: as `RerankedDistances`.

        Raises:
            ValueError: k1 or k2 below 1, a weight outside of 0 to 1.
        """
        self._weight, k1, k2 = _checked(weight), whole_number(k1, "k1", 1), whole_number(k2, "k2", 1)
        _tell_of_few(len(everyone), k1, k2, needed := neighbors_needed(k1, k2, "zhong"))
        order = np.argsort(everyone, axis=1, kind="stable")[:, :needed]
        ends = np.take_along_axis(everyone, order, axis=1), everyone.max(axis=1, initial=0)
        nearest = Neighbors(order.astype(np.int32), *ends)
        encoded = encode_neighbors(nearest, lambda left, right: everyone[left, right], k1, k2, "zhong")
        self._combine(MatrixDistances(everyone[:num_queries, num_queries:]), encoded, nearest)


def _checked(weight: float) -> float:
    if not 0 <= weight <= 1:
        raise ValueError(f"the weight of the plain distance (TEST.RERANK.LAMBDA) must lie in 0 … 1, got {weight}")
    return weight


@dataclass(frozen=True)
class _SearchOptions:
    """How neighbours are searched; checked."""

    metric: str
    search: str
    device: str
    num_threads: int

    @classmethod
    def of(cls, metric: str, search: str, device: str | torch.device, num_threads: int | None) -> _SearchOptions:
        return cls(metric, search, usable_device(device), thread_count(num_threads))


def _encode(
    features: ArrayLike,
    k1: int,
    k2: int,
    definition: str,
    options: _SearchOptions,
    nearest: Neighbors | None = None,
) -> tuple[sparse.csr_matrix, Neighbors]:
    """Return the encodings V [N, N] of all images by their k-reciprocal neighbours, and the neighbours."""
    chosen = _definition(definition)
    k1, k2 = whole_number(k1, "k1", 1), whole_number(k2, "k2", 1)
    given = rows_on_cpu(features)
    check_pair(given, given)
    rows = fit_metric(metric_named(options.metric), given, given).read(given)
    _tell_of_few(len(rows), k1, k2, needed := neighbors_needed(k1, k2, definition))
    needed = min(len(rows), needed)
    if nearest is None:
        nearest = nearest_neighbors(rows, needed, with_farthest=chosen.normalizes, **asdict(options))
    elif len(nearest.indices) != len(rows) or nearest.indices.shape[1] < needed:
        raise ArgumentError(
            f"the Jaccard distances of {len(rows)} images need {needed} neighbours of each, got "
            f"{nearest.indices.shape[1]} of {len(nearest.indices)} images"
        )
    elif chosen.normalizes and nearest.farthest is None:
        raise ArgumentError(f"the definition {definition} needs neighbours that are searched with_farthest=True")

    def between(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        distances = distances_of_pairs(rows, left, right, options.metric, options.num_threads)
        # |a - b|^2 = 2 - 2 cos
        return 2 * distances if options.metric == "cosine" and not chosen.normalizes else distances

    return encode_neighbors(nearest, between, k1, k2, definition), nearest


def encode_neighbors(
    nearest: Neighbors,
    between: Callable[[np.ndarray, np.ndarray], np.ndarray],
    k1: int,
    k2: int,
    definition: str,
) -> sparse.csr_matrix:
    """Return the encodings V [N, N] of all images.

    Args:
        nearest: at least `neighbors_needed` neighbours of each image, with the greatest distances for "zhong".
        between: returns the distances [M] of pairs of images, int32 [M] and [M].
        k1: as `jaccard_graph`.
        k2: as `jaccard_graph`.
        definition: as `jaccard_graph`.
    """
    chosen, num_images = _definition(definition), len(nearest.indices)
    num_neighbors = min(num_images, k1 + chosen.neighbors_beyond_itself)
    half = _reciprocal(nearest, min(num_neighbors, round(k1 / 2) + 1))
    encoded = _weighted(_expanded(_reciprocal(nearest, num_neighbors), half), between, nearest, chosen)
    if k2 > 1:
        k2 = min(k2, num_images)
        encoded = (_lists(nearest, k2, 1 / k2) @ encoded).tocsr()  # local query expansion
        encoded.sort_indices()
    return encoded


def _lists(nearest: Neighbors, k: int, value: float = 1.0) -> sparse.csr_matrix:
    """Return a matrix with `value` at the k nearest images of each image."""
    indices = nearest.indices[:, :k]
    starts = np.arange(len(indices) + 1) * indices.shape[1]
    values = np.full(indices.size, value, dtype=np.float32)
    return sparse.csr_matrix((values, indices.ravel(), starts), shape=(len(indices), len(indices)))


def _reciprocal(nearest: Neighbors, k: int) -> sparse.csr_matrix:
    """Return R(i, k): j is among the k nearest of i, and i among those of j (eq. 2)."""
    lists = _lists(nearest, k)
    return lists.multiply(lists.T.tocsr()).tocsr()


def _expanded(reciprocal: sparse.csr_matrix, half: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return R*(i): R(i) and R(q, k1 / 2) of each member q for which more than two thirds of it are in R(i) (eq. 3)."""
    shared = reciprocal.multiply(reciprocal @ half.T).tocoo()  # of members q only
    sizes = np.diff(half.indptr)
    is_added = 3 * shared.data > 2 * sizes[shared.col]
    ones = np.ones(int(is_added.sum()), dtype=np.float32)
    chosen = sparse.csr_matrix((ones, (shared.row[is_added], shared.col[is_added])), shape=reciprocal.shape)
    members = (reciprocal + chosen @ half).tocsr()
    members.sort_indices()
    return members


def _weighted(
    members: sparse.csr_matrix,
    between: Callable[[np.ndarray, np.ndarray], np.ndarray],
    nearest: Neighbors,
    definition: Definition,
) -> sparse.csr_matrix:
    """Return V: exp(-distance) of the members, each row scaled to a sum of one (eq. 7)."""
    counts = np.diff(members.indptr)
    image = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    distances = between(image, members.indices.astype(np.int32, copy=False))
    if definition.normalizes:
        distances = distances / _farthest(nearest)[image]
    distances[image == members.indices] = 0
    starts, has_any = members.indptr[:-1][counts > 0], counts > 0
    least = np.zeros(len(counts), dtype=np.float32)
    least[has_any] = np.minimum.reduceat(distances, starts)
    weights = np.exp(least[image] - distances)  # the nearest weighs 1, so that the sum is never zero
    sums = np.ones(len(counts), dtype=np.float32)
    sums[has_any] = np.add.reduceat(weights, starts)
    weights = (weights / sums[image]).astype(np.float32)
    return sparse.csr_matrix((weights, members.indices, members.indptr), shape=members.shape)


def _farthest(nearest: Neighbors) -> np.ndarray:
    """Return each image's greatest distance; one if all images are equal, so that nothing is scaled."""
    assert nearest.farthest is not None  # it was asked for
    return np.where(nearest.farthest > 0, nearest.farthest, np.float32(1))
