"""Ranking: average precision, INP and first-match rank of every query, from a block of distances.

Gallery images of the query's person under the query's camera are removed, and so is junk (person -1). The rest is
ordered by distance; equal distances by lower gallery index. Only the positives are sorted: the rank of each is one plus
the number of gallery images before it.
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
from fastreid.retrieval.descriptors import rows_in_place
from fastreid.retrieval.matches import Matches, match_labels
from fastreid.structures.ranking import Ranking
from fastreid.utils.counts import thread_count

logger = logging.getLogger(__name__)

FINITE_CHECK_ROWS = 256  # queries that are checked together: bounds the temporary to 256 x G bools


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
    """Rank the gallery for every query by a distance matrix.

    Args:
        distmat: distances [Q, G], smaller is more similar.
        q_pids: person ids of the queries, integers [Q].
        g_pids: person ids of the gallery, integers [G].
        q_camids: camera ids of the queries, integers [Q].
        g_camids: camera ids of the gallery, integers [G].
        use_cython: False for the NumPy fallback, which gives the same bits.
        num_threads: default: torch's number.

    Raises:
        ValueError: wrong shapes, or a distance that is not finite.
        NoValidQueryError: no query has a match.
    """
    num_threads = thread_count(num_threads)
    matches = match_labels(q_pids, g_pids, q_camids, g_camids)
    counted = count_matrix(distmat, matches, use_cython=use_cython, num_threads=num_threads)
    matches.require_valid_query()
    return ranking_of(*counted, matches)


def count_matrix(
    distmat: ArrayLike | Tensor,
    matches: Matches,
    *,
    use_cython: bool = True,
    num_threads: int | None = None,
    checked: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances of the positives in ranked order and their counts [3, positives], for `ranking_of`.

    Args:
        distmat: distances [Q, G]; a tensor is counted on its device.
        matches: matches of the Q queries.
        use_cython: as `rank_queries`.
        num_threads: as `rank_queries`.
        checked: whether `check_distances` has been called.
    """
    threads = thread_count(num_threads)
    distances = _on_device(distmat)
    if not checked:
        check_distances(distances, matches)
    query = np.repeat(np.arange(len(distances)), matches.num_positives)
    if isinstance(distances, Tensor):
        count_before: Any = ranking_torch.count_before
        entries = torch.from_numpy(np.stack([query, matches.positives])).to(distances.device)
        to_positives = distances[tuple(entries)].cpu().numpy()
    else:
        if distances.dtype not in (np.float32, np.float64):
            distances = distances.astype(np.float64)
        distances = np.ascontiguousarray(distances)
        count_before = _compiled_counter() if use_cython else ranking_numpy.count_before
        to_positives = distances[query, matches.positives]
    by_rank = np.lexsort((matches.positives, to_positives, query))
    counts = count_before(
        distances,
        matches.positives[by_rank],
        matches.positive_starts,
        matches.removed,
        matches.removed_starts,
        matches.junk,
        threads,
    )
    return to_positives[by_rank], counts


def _on_device(distmat: ArrayLike | Tensor) -> np.ndarray | Tensor:
    """Return an array for the CPU, and the tensor itself for other devices."""
    distances = rows_in_place(distmat, "distances")
    if isinstance(distances, np.ndarray):
        return np.asarray(distances)
    if distances.device.type != "cpu":
        return distances
    distances = distances.detach()
    return (distances.float() if distances.dtype == torch.bfloat16 else distances).numpy()


def check_distances(distances: np.ndarray | Tensor, matches: Matches) -> None:
    """Check the shape of a distance matrix, and that it is finite.

    Raises:
        ValueError: the shape is not that of the matches, or a distance is not finite; the message names it.
    """
    shape = (len(matches.num_positives), matches.num_gallery)
    if tuple(distances.shape) != shape:
        raise ValueError(
            f"distances have shape {list(distances.shape)} but the ids speak of "
            f"{shape[0]} queries and {shape[1]} gallery images"
        )
    check_all_finite(distances)


def check_all_finite(distances: np.ndarray | Tensor, first_query: int = 0) -> None:
    """Check that all distances are finite.

    Args:
        distances: some rows of the distance matrix.
        first_query: the number of the first row.

    Raises:
        ValueError: names the first distance that is not finite.
    """
    if isinstance(distances, np.ndarray) and distances.dtype in (np.float32, np.float64) and _compiled_check(distances):
        return
    is_finite: Any = torch.isfinite if isinstance(distances, Tensor) else np.isfinite
    for start in range(0, len(distances), FINITE_CHECK_ROWS):
        wrong = ~is_finite(distances[start : start + FINITE_CHECK_ROWS])
        if wrong.any():
            row, column = torch.as_tensor(wrong).nonzero()[0].tolist()
            raise ValueError(
                f"the distance of query row {first_query + start + row} to gallery image {column} is "
                f"{float(distances[start + row, column])}; distances must be finite (did the model diverge?)"
            )


def _compiled_check(distances: np.ndarray) -> bool:
    """Return whether the kernels, if they are built, find every distance finite."""
    if not distances.flags.c_contiguous:
        return False
    try:
        from fastreid.retrieval.rank_cylib.rank_cy import all_finite
    except Exception:  # an extension that was built for other versions raises anything
        return False
    return all_finite(distances, torch.get_num_threads())


def ranking_of(thresholds: np.ndarray, counts: np.ndarray, matches: Matches) -> Ranking:
    """Compute AP = mean of j / rank_j over the positives j = 1..P, and INP = P / rank_P.

    The bounds of AP rank all wrong images at a positive's distance after it, or all before it.

    Args:
        thresholds: distances of the positives, in ranked order.
        counts: int64 [3, positives]: before, below and at most (`ranking_numpy.count_before`).
        matches: matches of the Q queries.
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
    """Return how many of a query's positives are below each positive's distance, and how many at most at it."""
    if not len(thresholds):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    is_new = np.concatenate([[True], (thresholds[1:] != thresholds[:-1]) | (query[1:] != query[:-1])])
    group = is_new.cumsum() - 1
    first_of_group = np.flatnonzero(is_new)
    end_of_group = np.append(first_of_group[1:], len(thresholds))
    return first_of_group[group] - starts[query], end_of_group[group] - starts[query]


@cache  # the warning is logged once
def _compiled_counter() -> Any:
    try:
        from fastreid.retrieval.rank_cylib.rank_cy import count_before
    except Exception:  # an extension that was built for other versions raises anything
        logger.warning(
            "the compiled rank evaluation is missing, using the slower one in NumPy (same numbers); "
            "build it with a C compiler and: pip install -e . --no-build-isolation"
        )
        return ranking_numpy.count_before
    return count_before
