"""Distances between descriptors as one matrix: for few images, and for code written for fast-reid."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fastreid.retrieval.checked import in_place
from fastreid.retrieval.torch_engine import TorchDistances


def build_dist(query: Tensor, gallery: Tensor, metric: str = "cosine") -> np.ndarray:
    """Distance matrix float32 [Q, G] of descriptors [Q, D] and [G, D], in NumPy.

    Args:
        metric: "cosine" (1 - cos) or "euclidean" (squared, as in fast-reid).

    Raises:
        ValueError: an unknown metric, descriptors of different length or that are not finite real numbers.
    """
    distances = TorchDistances(in_place(query), in_place(gallery), metric=metric)
    return distances.rows(0, len(query))
