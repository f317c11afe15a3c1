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
