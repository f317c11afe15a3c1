"""CUHK03's single-shot protocol: of each person one gallery image stays, drawn at random.

Others draw ten times and average. Which images are drawn decides one thing only, how many people stand before the
query's; each other person does so with the share of their images that are nearer, independently. So the expectation
over all draws can be had exactly (the law of a sum of independent yes-or-no draws), and nothing depends on a seed.
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
    """Expected match curves over all draws of one gallery image per person, float64 [Q, max_rank].

    NaN for queries without a right image. Equal distances: the lower gallery index first.

    Args:
        blocks: distances [some queries, G], arrays or tensors, each with the number of its first query
            (`Distances.blocks`).
        g_pids: person ids of the gallery [G].
    """
    people = np.unique(np.asarray(g_pids), return_inverse=True)[1]
    curves = np.full((len(matches.num_positives), max_rank), np.nan)
    for first, block in blocks:
        rows = block if isinstance(block, np.ndarray) else block.cpu().numpy()
        mine = matches.of_queries(first, first + len(rows))
        for query in np.flatnonzero(mine.num_positives):
            right = mine.positives[mine.positive_starts[query] : mine.positive_starts[query + 1]]
            removed = mine.removed[mine.removed_starts[query] : mine.removed_starts[query + 1]]
            gone = np.concatenate([mine.junk, removed])
            curves[first + query] = _expected_cmc(rows[query], right, gone, people, max_rank)
    return curves


def _expected_cmc(
    row: np.ndarray, right: np.ndarray, removed: np.ndarray, people: np.ndarray, max_rank: int
) -> np.ndarray:
    """Of one query: the mean over its right images, of which each is as likely to be drawn."""
    wrong = np.ones(len(row), dtype=bool)
    wrong[right] = wrong[removed] = False
    images_of = np.bincount(people[wrong], minlength=people.max() + 1)
    right = right[np.lexsort((right, row[right]))]
    near = np.flatnonzero(wrong & (row <= row[right[-1]]))
    passed = first_positive_after(row, near, right)
    counts = np.zeros((len(right) + 1, len(images_of)))
    np.add.at(counts, (passed, people[near]), 1)
    share = counts[:-1].cumsum(axis=0) / np.maximum(images_of, 1)  # [right images, people]
    return np.cumsum(_number_of_successes(share[:, share[-1] > 0], max_rank), axis=1).mean(axis=0)


def _number_of_successes(chances: np.ndarray, limit: int) -> np.ndarray:
    """P(n of these independent events happen) for n = 0 … limit - 1, [rows, limit] of chances [rows, events]."""
    law = np.zeros((len(chances), limit))
    law[:, 0] = 1
    for chance in -np.sort(-chances, axis=1).T[:, :, None]:  # likely ones first: where the law is empty it stays so
        if not chance[law.sum(axis=1) > 1e-15].any():
            break
        law[:, 1:] = law[:, 1:] * (1 - chance) + law[:, :-1] * chance
        law[:, :1] *= 1 - chance
    return law
