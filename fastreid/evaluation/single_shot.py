"""CUHK03's single-shot protocol: one gallery image of each person is kept, drawn at random.

The usual implementation averages ten draws; this one computes the expectation over all draws exactly. The rank of the
query's person is one plus the number of people whose drawn image is nearer. These events are independent, and the
probability of each is the share of that person's images that are nearer, so the number has a Poisson binomial
distribution.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastreid.retrieval.matches import Matches
from fastreid.retrieval.ranking_numpy import first_positive_after


def single_shot_cmc(
    blocks: Iterable[tuple[int, Any]], matches: Matches, g_pids: ArrayLike, max_rank: int = 50
) -> np.ndarray:
    """Return the expected match curve of each query over all draws, float64 [Q, max_rank].

    Queries without a positive have NaN. Of equal distances the lower gallery index comes first.

    Args:
        blocks: distances [some queries, G], arrays or tensors, each with the number of its first query
            (`Distances.blocks`).
        matches: matches of the queries.
        g_pids: person ids of the gallery [G].
        max_rank: length of the curve.
    """
    people = np.unique(np.asarray(g_pids), return_inverse=True)[1]
    curves = np.full((len(matches.num_positives), max_rank), np.nan)
    for first, block in blocks:
        rows = block if isinstance(block, np.ndarray) else block.cpu().numpy()
        for query in np.flatnonzero(matches.of_queries(first, first + len(rows)).num_positives) + first:
            positives = matches.positives[matches.positive_starts[query] : matches.positive_starts[query + 1]]
            is_removed = matches.removed_mask(int(query))
            curves[query] = _expected_cmc(rows[query - first], positives, is_removed, people, max_rank)
    return curves


def _expected_cmc(
    row: np.ndarray, positives: np.ndarray, is_removed: np.ndarray, people: np.ndarray, max_rank: int
) -> np.ndarray:
    """Return the curve of one query: the mean over its positives, which are drawn with equal probability."""
    is_wrong = ~is_removed
    is_wrong[positives] = False
    images_of = np.bincount(people[is_wrong], minlength=people.max() + 1)
    ranked = positives[np.lexsort((positives, row[positives]))]
    near = np.flatnonzero(is_wrong & (row <= row[ranked[-1]]))
    passed = first_positive_after(row, near, ranked)
    counts = np.zeros((len(ranked) + 1, len(images_of)))
    np.add.at(counts, (passed, people[near]), 1)
    share = counts[:-1].cumsum(axis=0) / np.maximum(images_of, 1)  # [positives, people]
    return np.cumsum(_poisson_binomial(share[:, share[-1] > 0], max_rank), axis=1).mean(axis=0)


def _poisson_binomial(probabilities: np.ndarray, limit: int) -> np.ndarray:
    """Return P(n of the independent events happen) for n = 0 … limit - 1, [rows, limit].

    Args:
        probabilities: probabilities of the events, [rows, events].
        limit: number of counts n.
    """
    distribution = np.zeros((len(probabilities), limit))
    distribution[:, 0] = 1
    # Likely events first: rows whose distribution has moved beyond the limit need no further events.
    for probability in -np.sort(-probabilities, axis=1).T[:, :, None]:
        if not probability[distribution.sum(axis=1) > 1e-15].any():
            break
        distribution[:, 1:] = distribution[:, 1:] * (1 - probability) + distribution[:, :-1] * probability
        distribution[:, :1] *= 1 - probability
    return distribution
