"""The one definition of a ranking: AP, INP and CMC from distances, ties and removals stated.

A gallery image of the query's person under the query's camera is removed, junk (person -1) always;
the rest is ordered by distance, equal distances by lower gallery index. Only the positives are
sorted: the rank of each is one plus the gallery images counted before it, so rows never are.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastreid.evaluation import rank_numpy
from fastreid.evaluation.matching import Matches, match_labels
from fastreid.structures.ranking import Ranking

logger = logging.getLogger(__name__)

FINITE_CHECK_ROWS = 256  # queries looked at together: bounds the temporary to 256 x G bools


def evaluate_rank(
    distmat: ArrayLike,
    q_pids: ArrayLike,
    g_pids: ArrayLike,
    q_camids: ArrayLike,
    g_camids: ArrayLike,
    max_rank: int = 50,
    use_cython: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score a distance matrix; the interface of fast-reid's function of this name.

    Args:
        distmat: [Q, G], smaller is more alike.
        q_pids, g_pids, q_camids, g_camids: integer ids, [Q] and [G].
        max_rank: length of the returned curve.
        use_cython: False forces the NumPy fallback, which gives the same bits.
    Returns: (cmc [max_rank], AP [valid queries], INP [valid queries]), float64 in 0..1.
    Raises: ValueError (shapes, a NaN or infinite distance), NoValidQueryError.
    """
    if max_rank < 1:
        raise ValueError(f"max_rank must be at least 1, got {max_rank}")
    ranking = rank_queries(distmat, q_pids, g_pids, q_camids, g_camids, use_cython=use_cython)
    return ranking.cmc(max_rank), ranking.ap[ranking.valid], ranking.inp[ranking.valid]


def rank_queries(
    distmat: ArrayLike,
    q_pids: ArrayLike,
    g_pids: ArrayLike,
    q_camids: ArrayLike,
    g_camids: ArrayLike,
    *,
    use_cython: bool = True,
) -> Ranking:
    """The `Ranking` of every query; arguments and errors as `evaluate_rank`."""
    matches = match_labels(q_pids, g_pids, q_camids, g_camids)
    distances = _checked_distances(distmat, matches)
    matches.require_valid_query()
    ranks = _positive_ranks(distances, matches, use_cython)
    return _ranking(ranks, matches)


def removed_for(matches: Matches, query: int) -> np.ndarray:
    """Bool [G]: gallery images that do not take part in this query's ranking."""
    mask = np.zeros(matches.num_gallery, dtype=bool)
    mask[matches.junk] = True
    mask[matches.removed[matches.removed_starts[query] : matches.removed_starts[query + 1]]] = True
    return mask


def _checked_distances(distmat: ArrayLike, matches: Matches) -> np.ndarray:
    """The distances as C-ordered float32 or float64 [Q, G], a copy only where needed."""
    distances = np.asarray(distmat)
    shape = (len(matches.num_positives), matches.num_gallery)
    if distances.shape != shape:
        raise ValueError(
            f"distances have shape {list(distances.shape)} but the ids speak of "
            f"{shape[0]} queries and {shape[1]} gallery images"
        )
    if distances.dtype not in (np.float32, np.float64):
        distances = distances.astype(np.float64)
    for start in range(0, shape[0], FINITE_CHECK_ROWS):
        finite = np.isfinite(distances[start : start + FINITE_CHECK_ROWS]).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            column = int(np.argmin(np.isfinite(distances[row])))
            raise ValueError(
                f"the distance of query row {row} to gallery image {column} is "
                f"{distances[row, column]}; distances must be finite (did the model diverge?)"
            )
    return np.ascontiguousarray(distances)


def _positive_ranks(distances: np.ndarray, matches: Matches, use_cython: bool) -> np.ndarray:
    """Rank (from 1) of every positive, int64, ascending within a query."""
    query = np.repeat(np.arange(len(distances)), matches.num_positives)
    by_rank = np.lexsort((matches.positives, distances[query, matches.positives], query))
    count_before = _compiled_counter() if use_cython else rank_numpy.count_before
    return 1 + count_before(
        distances,
        matches.positives[by_rank],
        matches.positive_starts,
        matches.removed,
        matches.removed_starts,
        matches.junk,
    )


def _ranking(ranks: np.ndarray, matches: Matches) -> Ranking:
    """AP = mean of j / rank_j over the positives j = 1..P, INP = P / rank_P."""
    num_positives = matches.num_positives
    valid = num_positives > 0
    starts = matches.positive_starts[:-1]
    nth = np.arange(len(ranks)) - np.repeat(starts, num_positives) + 1

    ap = np.full(len(num_positives), np.nan)
    inp = np.full(len(num_positives), np.nan)
    first = np.zeros(len(num_positives), dtype=np.int64)
    ap[valid] = np.add.reduceat(nth / ranks, starts[valid]) / num_positives[valid]
    inp[valid] = num_positives[valid] / ranks[matches.positive_starts[1:][valid] - 1]
    first[valid] = ranks[starts[valid]]
    return Ranking(ap, inp, first, num_positives, matches.num_valid_gallery)


@cache  # so that the warning is given once
def _compiled_counter() -> Any:
    try:
        from fastreid.evaluation.rank_cylib.rank_cy import count_before
    except ImportError:
        logger.warning(
            "the compiled rank evaluation is missing, using the slower NumPy one (same numbers); "
            "build it with a C compiler and: pip install -e . --no-build-isolation"
        )
        return rank_numpy.count_before
    return count_before
