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
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from fastreid.retrieval import ranking_numpy, ranking_torch
from fastreid.retrieval.checked import in_place
from fastreid.retrieval.matching import Matches, match_labels
from fastreid.structures.ranking import Ranking
from fastreid.utils.counts import thread_count

logger = logging.getLogger(__name__)

FINITE_CHECK_ROWS = 256  # queries looked at together: bounds the temporary to 256 x G bools


def rank_queries(
    distmat: ArrayLike,
    q_pids: ArrayLike,
    g_pids: ArrayLike,
    q_camids: ArrayLike,
    g_camids: ArrayLike,
    *,
    use_cython: bool = True,
    num_threads: int | None = None,
) -> Ranking:
    """The `Ranking` of every query; arguments and errors as `evaluate_rank`. `num_threads`: torch's if not said."""
    num_threads = thread_count(num_threads)
    matches = match_labels(q_pids, g_pids, q_camids, g_camids)
    counted = count_matrix(distmat, matches, use_cython=use_cython, num_threads=num_threads)
    matches.require_valid_query()
    return ranking_of(*counted, matches)


def removed_for(matches: Matches, query: int) -> np.ndarray:
    """Bool [G]: gallery images that do not take part in this query's ranking."""
    mask = np.zeros(matches.num_gallery, dtype=bool)
    mask[matches.junk] = True
    mask[matches.removed[matches.removed_starts[query] : matches.removed_starts[query + 1]]] = True
    return mask


def count_matrix(
    distmat: ArrayLike | Tensor,
    matches: Matches,
    *,
    use_cython: bool = True,
    num_threads: int | None = None,
    checked: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Distances of the positives in ranked order, and their counts [3, positives]: what `ranking_of` needs.

    Args:
        distmat: [Q, G]; a tensor is counted on its device.
        checked: somebody has called `check_distances`.
    """
    threads = thread_count(num_threads)
    distmat = in_place(distmat, "distances")
    if isinstance(distmat, np.ndarray):
        distmat = np.asarray(distmat)
    elif distmat.device.type == "cpu":
        distmat = distmat.detach()
        distmat = (distmat.float() if distmat.dtype == torch.bfloat16 else distmat).numpy()
    if not checked:
        check_distances(distmat, matches)
    query = np.repeat(np.arange(len(distmat)), matches.num_positives)
    if isinstance(distmat, Tensor):
        count_before = ranking_torch.count_before
        to_positives = distmat[tuple(torch.from_numpy(np.stack([query, matches.positives])).to(distmat.device))]
        to_positives = to_positives.cpu().numpy()
    else:
        if distmat.dtype not in (np.float32, np.float64):
            distmat = distmat.astype(np.float64)
        distmat = np.ascontiguousarray(distmat)
        count_before = _compiled_counter() if use_cython else ranking_numpy.count_before
        to_positives = distmat[query, matches.positives]
    by_rank = np.lexsort((matches.positives, to_positives, query))
    counts = count_before(
        distmat,
        matches.positives[by_rank],
        matches.positive_starts,
        matches.removed,
        matches.removed_starts,
        matches.junk,
        threads,
    )
    return to_positives[by_rank], counts


def check_distances(distances: np.ndarray | Tensor, matches: Matches) -> None:
    """Raises: ValueError if the shape is not that of the matches, or naming a distance that is not finite."""
    shape = (len(matches.num_positives), matches.num_gallery)
    if tuple(distances.shape) != shape:
        raise ValueError(
            f"distances have shape {list(distances.shape)} but the ids speak of "
            f"{shape[0]} queries and {shape[1]} gallery images"
        )
    check_all_finite(distances)


def check_all_finite(distances: np.ndarray | Tensor, first_query: int = 0) -> None:
    """Raises: ValueError naming a distance that is not finite; `first_query` is the number of row 0."""
    if isinstance(distances, np.ndarray) and distances.dtype in (np.float32, np.float64) and _compiled_check(distances):
        return
    is_finite = torch.isfinite if isinstance(distances, Tensor) else np.isfinite
    for start in range(0, len(distances), FINITE_CHECK_ROWS):
        wrong = ~is_finite(distances[start : start + FINITE_CHECK_ROWS])
        if wrong.any():
            row, column = torch.as_tensor(wrong).nonzero()[0].tolist()
            raise ValueError(
                f"the distance of query row {first_query + start + row} to gallery image {column} is "
                f"{float(distances[start + row, column])}; distances must be finite (did the model diverge?)"
            )


def _compiled_check(distances: np.ndarray) -> bool:
    """Whether the kernels, if they are built, find every distance finite."""
    if not distances.flags.c_contiguous:
        return False
    try:
        from fastreid.retrieval.rank_cylib.rank_cy import all_finite
    except Exception:  # one that was built for other versions raises anything
        return False
    return all_finite(distances, torch.get_num_threads())


def ranking_of(thresholds: np.ndarray, counts: np.ndarray, matches: Matches) -> Ranking:
    """AP = mean of j / rank_j over the positives j = 1..P, INP = P / rank_P.

    The bounds of AP put all wrong images of a positive's distance after it, or all before it.

    Args:
        thresholds: distances of the positives, in ranked order.
        counts: int64 [3, positives], before, below and at most (`ranking_numpy.count_before`).
        matches: of Q queries.
    """
    num_positives = matches.num_positives
    valid = num_positives > 0
    starts = matches.positive_starts[:-1]
    query = np.repeat(np.arange(len(starts)), num_positives)
    nth = np.arange(len(thresholds)) - np.repeat(starts, num_positives) + 1
    before, below, at_most = counts
    ranks = 1 + before
    right_below, right_at_most = _positives_around(thresholds, query, starts)

    def mean_precision(ranks: np.ndarray) -> np.ndarray:
        ap = np.full(len(num_positives), np.nan)
        ap[valid] = np.add.reduceat(nth / ranks, starts[valid]) / num_positives[valid]
        return ap

    inp = np.full(len(num_positives), np.nan)
    first = np.zeros(len(num_positives), dtype=np.int64)
    inp[valid] = num_positives[valid] / ranks[matches.positive_starts[1:][valid] - 1]
    first[valid] = ranks[starts[valid]]
    return Ranking(
        ap=mean_precision(ranks),
        inp=inp,
        first_match_rank=first,
        num_positives=num_positives,
        num_valid_gallery=matches.num_valid_gallery,
        ap_optimistic=mean_precision(below - right_below + nth),
        ap_pessimistic=mean_precision(at_most - right_at_most + nth),
    )


def _positives_around(thresholds: np.ndarray, query: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each positive, how many of its query's positives are below its distance, and at most at it."""
    if not len(thresholds):
        return np.zeros((2, 0), dtype=np.int64)
    is_new = np.concatenate([[True], (thresholds[1:] != thresholds[:-1]) | (query[1:] != query[:-1])])
    group = is_new.cumsum() - 1
    first_of_group = np.flatnonzero(is_new)
    end_of_group = np.append(first_of_group[1:], len(thresholds))
    return first_of_group[group] - starts[query], end_of_group[group] - starts[query]


@cache  # so that the warning is given once
def _compiled_counter() -> Any:
    try:
        from fastreid.retrieval.rank_cylib.rank_cy import count_before
    except Exception:  # one that was built for other versions raises anything
        logger.warning(
            "the compiled rank evaluation is missing, using the slower one in NumPy (same numbers); "
            "build it with a C compiler and: pip install -e . --no-build-isolation"
        )
        return ranking_numpy.count_before
    return count_before
