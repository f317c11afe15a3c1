"""Ranks from features where the compiled extension is not built: torch multiplies a block of queries, NumPy counts.

The same figures as `fused`, but for distances that differ in their last bits: a library's product rounds as it likes.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from fastreid.evaluation.distance import build_dist
from fastreid.evaluation.matching import match_labels
from fastreid.evaluation.rank import count_matrix, ranking_of
from fastreid.structures.ranking import Ranking


def rank_features(
    query: ArrayLike,
    gallery: ArrayLike,
    q_pids: ArrayLike,
    g_pids: ArrayLike,
    q_camids: ArrayLike,
    g_camids: ArrayLike,
    *,
    metric: str = "cosine",
    memory_budget: float,
) -> Ranking:
    """Score descriptors [Q, D] and [G, D]; arguments and errors as `fused.rank_features`."""
    query, gallery = torch.as_tensor(query), torch.as_tensor(gallery)
    matches = match_labels(q_pids, g_pids, q_camids, g_camids)
    matches.require_valid_query()
    thresholds, counts = [], []
    at_once = _queries_at_once(gallery, memory_budget)
    for first in range(0, len(query), at_once):
        distances = build_dist(query[first : first + at_once], gallery, metric)
        near, count = count_matrix(distances, matches.of_queries(first, first + len(distances)), first_query=first)
        thresholds.append(near)
        counts.append(count)
    return ranking_of(np.concatenate(thresholds), np.concatenate(counts, axis=1), matches)


def distances_of(query: ArrayLike, gallery: ArrayLike, row: int, *, metric: str, memory_budget: float) -> np.ndarray:
    """Distances float32 [G] of one query, from the same block as when it was ranked."""
    query, gallery = torch.as_tensor(query), torch.as_tensor(gallery)
    at_once = _queries_at_once(gallery, memory_budget)
    first = row // at_once * at_once
    return build_dist(query[first : first + at_once], gallery, metric)[row - first]


def _queries_at_once(gallery: Tensor, memory_budget: float) -> int:
    """A matrix, the product it is made of, and one more for what NumPy needs."""
    return max(1, int(memory_budget * 2**20 / (3 * 4 * len(gallery))))
