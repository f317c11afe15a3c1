"""Cumulative match curve, AP and INP of a distance matrix: the interface of fast-reid."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fastreid.evaluation.single_shot import single_shot_cmc
from fastreid.retrieval.descriptors import matrix_on_cpu
from fastreid.retrieval.matches import match_labels
from fastreid.retrieval.ranking import rank_queries
from fastreid.utils.counts import whole_number


def evaluate_rank(
    distmat: ArrayLike,
    q_pids: ArrayLike,
    g_pids: ArrayLike,
    q_camids: ArrayLike,
    g_camids: ArrayLike,
    max_rank: int = 50,
    use_metric_cuhk03: bool = False,
    use_cython: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score a distance matrix; the interface of fast-reid's function of this name.

    Args:
        distmat: distances [Q, G], smaller is more similar.
        q_pids: person ids of the queries, integers [Q].
        g_pids: person ids of the gallery, integers [G].
        q_camids: camera ids of the queries, integers [Q].
        g_camids: camera ids of the gallery, integers [G].
        max_rank: length of the returned curve.
        use_metric_cuhk03: return the curve of CUHK03's single-shot protocol (`single_shot_cmc`); AP and INP stay.
        use_cython: False for the NumPy fallback, which gives the same bits.

    Returns:
        (cmc [max_rank], AP [valid queries], INP [valid queries]), float64 in 0..1.

    Raises:
        ValueError: wrong shapes, or a NaN or infinite distance.
        NoValidQueryError: no query has a match.
    """
    max_rank = whole_number(max_rank, "max_rank", 1)
    ranking = rank_queries(distmat, q_pids, g_pids, q_camids, g_camids, use_cython=use_cython)
    cmc = ranking.cmc(max_rank)
    if use_metric_cuhk03:
        matches = match_labels(q_pids, g_pids, q_camids, g_camids)
        curves = single_shot_cmc([(0, matrix_on_cpu(distmat))], matches, g_pids, max_rank)
        cmc = curves[ranking.valid].mean(axis=0)
    return cmc, ranking.ap[ranking.valid], ranking.inp[ranking.valid]


def eval_market1501(
    distmat: ArrayLike,
    q_pids: ArrayLike,
    g_pids: ArrayLike,
    q_camids: ArrayLike,
    g_camids: ArrayLike,
    max_rank: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score a distance matrix without compiled code, as fast-reid's function; see `evaluate_rank`."""
    return evaluate_rank(distmat, q_pids, g_pids, q_camids, g_camids, max_rank, use_cython=False)
