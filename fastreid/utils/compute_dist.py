"""Distances between descriptors at fast-reid's module path; they are implemented in `fastreid.retrieval`."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor


def build_dist(feat_1: Tensor, feat_2: Tensor, metric: str = "euclidean", **kwargs: Any) -> np.ndarray:
    """Return the distance matrix, float32 [M, N], of descriptors [M, D] and [N, D]; fast-reid's signature.

    Args:
        feat_1: descriptors [M, D].
        feat_2: descriptors [N, D].
        metric: "euclidean" (squared), "cosine", or "jaccard" (k-reciprocal, of cosines).
        kwargs: arguments of the metric; "jaccard" takes `k1` and `k2`.

    Raises:
        ValueError: an unknown metric, descriptors of different length or that are not finite.
        TypeError: a keyword that the metric does not take.
    """
    # Not above: utils knows nothing of re-identification, and importing it must not load all of that.
    from fastreid.retrieval.reranking import jaccard_distances
    from fastreid.retrieval.torch_engine import build_dist as dense

    if metric == "jaccard":
        return jaccard_distances(feat_1, feat_2, **kwargs)
    return dense(feat_1, feat_2, metric, **kwargs)


def compute_euclidean_distance(features: Tensor, others: Tensor) -> np.ndarray:
    """Return squared Euclidean distances, float32 [M, N]; see `build_dist`.

    Args:
        features: descriptors [M, D].
        others: descriptors [N, D].
    """
    return build_dist(features, others, "euclidean")


def compute_cosine_distance(features: Tensor, others: Tensor) -> np.ndarray:
    """Return 1 - cos, float32 [M, N]; see `build_dist`.

    Args:
        features: descriptors [M, D].
        others: descriptors [N, D].
    """
    return build_dist(features, others, "cosine")


def compute_jaccard_distance(features: Tensor, k1: int = 20, k2: int = 6, search_option: int = 0) -> np.ndarray:
    """Return the Jaccard distances among all images, float32 [N, N]; for few images.

    `fastreid.retrieval.reranking.jaccard_graph` returns them as a sparse matrix.

    Args:
        features: descriptors [N, D]; neighbours are searched by cosine.
        k1: number of neighbours that encode an image.
        k2: number of neighbours over whose encodings an image's is averaged; 1 for no average.
        search_option: fast-reid's number of a search engine; not used, as all find the same neighbours.
    """
    from fastreid.retrieval.reranking import jaccard_rows

    rows = jaccard_rows(features, k1=k1, k2=k2)
    near = rows.between(0, rows.num_rows, 1.0).tocoo()
    distances = np.ones(near.shape, dtype=np.float32)
    distances[near.row, near.col] = near.data
    return distances
