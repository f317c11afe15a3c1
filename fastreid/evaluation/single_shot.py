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

from fastreid.evaluation.matching import Matches


def single_shot_cmc(
    blocks: Iterable[tuple[int, Any]], matches: Matches, g_pids: ArrayLike, max_rank: int = 50
) -> np.ndarray:
    """Expected match curve over all draws of one gallery image per person, float64 [max_rank], mean of valid queries.

    Args:
        blocks: distances [some queries, G], arrays or tensors, each with the number of its first query
            (`Distances.blocks`).
        g_pids: person ids of the gallery [G]; equal distances: the lower index first.
    """
    people = np.unique(np.asarray(g_pids), return_inverse=True)[1]
    curves = []
    for first, block in blocks:
        rows = block if isinstance(block, np.ndarray) else block.cpu().numpy()
        mine = matches.of_queries(first, first + len(rows))
        for query in np.flatnonzero(mine.num_positives):
            right = mine.positives[mine.positive_starts[query] : mine.positive_starts[query + 1]]
            removed = mine.removed[mine.removed_starts[query] : mine.removed_starts[query + 1]]
            curves.append(_expected_cmc(rows[query], right, np.concatenate([mine.junk, removed]), people, max_rank))
    return np.mean(curves, axis=0)


def _expected_cmc(
    row: np.ndarray, right: np.ndarray, removed: np.ndarray, people: np.ndarray, max_rank: int
) -> np.ndarray:
    """Of one query: the mean over its right images, of which each is as likely to be drawn."""
    wrong = np.ones(len(row), dtype=bool)
    wrong[right] = wrong[removed] = False
    images = np.flatnonzero(wrong)
    owner = people[images]
    per_person = np.bincount(owner, minlength=people.max() + 1)
    cmc = np.zeros(max_rank)
    for image in right:
        is_before = (row[images] < row[image]) | ((row[images] == row[image]) & (images < image))
        nearer = np.bincount(owner[is_before], minlength=len(per_person))
        share = nearer[nearer > 0] / per_person[nearer > 0]
        cmc += np.cumsum(_number_of_successes(share, max_rank))
    return cmc / len(right)


def _number_of_successes(chances: np.ndarray, limit: int) -> np.ndarray:
    """P(n of these independent events happen) for n = 0 … limit - 1."""
    certain = int((chances == 1).sum())
    law = np.zeros(limit)
    if certain >= limit:
        return law
    law[certain] = 1
    for chance in chances[chances < 1]:
        law[1:] = law[1:] * (1 - chance) + law[:-1] * chance
        law[0] *= 1 - chance
    return law
