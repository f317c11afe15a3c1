"""Distances between descriptors: fp32, filled block by block into one matrix."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from fastreid.utils.suggest import explain_choice

BLOCK_ROWS = 1024  # queries multiplied at once: bounds the temporary to 1024 x G floats


def cosine_distance(query: Tensor, gallery: Tensor) -> Tensor:
    """1 - cos, [Q, G] from descriptors [Q, D] and [G, D] of any length."""
    return 1.0 - F.normalize(query) @ F.normalize(gallery).T


def squared_euclidean_distance(query: Tensor, gallery: Tensor) -> Tensor:
    """|q - g|^2, [Q, G]; at least 0. Squared, as in fast-reid: the order is the same."""
    lengths = query.square().sum(dim=1, keepdim=True) + gallery.square().sum(dim=1)
    return (lengths - 2.0 * query @ gallery.T).clamp_min(0.0)


METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": cosine_distance,
    "euclidean": squared_euclidean_distance,
}


def build_dist(query: Tensor, gallery: Tensor, metric: str = "cosine") -> np.ndarray:
    """Distance matrix float32 [Q, G] of descriptors [Q, D] and [G, D], in NumPy.

    Raises: ValueError for an unknown metric or descriptors of different length.
    """
    if metric not in METRICS:
        raise ValueError(explain_choice("distance metric (TEST.METRIC)", metric, METRICS))
    if query.ndim != 2 or gallery.ndim != 2 or query.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"query descriptors {list(query.shape)} and gallery descriptors "
            f"{list(gallery.shape)} must be [Q, D] and [G, D] with one D"
        )
    query, gallery = query.detach().float().cpu(), gallery.detach().float().cpu()
    distances = np.empty((len(query), len(gallery)), dtype=np.float32)
    for start in range(0, len(query), BLOCK_ROWS):
        block = METRICS[metric](query[start : start + BLOCK_ROWS], gallery)
        distances[start : start + BLOCK_ROWS] = block.numpy()
    return distances
