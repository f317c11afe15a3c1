"""Failed queries, whose nearest image shows another person, and who is taken for whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastreid.evaluation.scoring import ProtocolResult
from fastreid.structures import PersonImage

NEAREST = 3  # images of each failed query, before the first right one


@dataclass(frozen=True, slots=True)
class Failure:
    """A query whose nearest image shows another person.

    Attributes:
        query: its row.
        images: (rank, gallery index) of the `NEAREST` nearest images and of the first right one; by rank.
        distances: gallery index -> distance, of these images.
    """

    query: int
    images: list[tuple[int, int]]
    distances: dict[int, float]


@dataclass(frozen=True, slots=True)
class Confusion:
    """A person who is taken for another one.

    Attributes:
        person: id of the queries' person.
        taken_for: id of the person that the nearest image shows.
        times: number of queries.
        queries: number of valid queries of the person.
    """

    person: int
    taken_for: int
    times: int
    queries: int


def failures(result: ProtocolResult) -> list[Failure]:
    """Return all failed queries, worst AP first; equal AP by row.

    The distances are those of the score. They are computed once more, a few rows at a time, and only a few images of
    each query are kept.
    """
    ranking = result.ranking
    rows = result.distances.rows_of(np.flatnonzero(ranking.first_match_rank > 1), "looking at failed queries")
    found = [_failure(result, query, distances) for query, distances in rows]
    return sorted(found, key=lambda failure: ranking.ap[failure.query])


def _failure(result: ProtocolResult, query: int, distances: np.ndarray) -> Failure:
    matches, first_rank = result.matches, int(result.ranking.first_match_rank[query])
    right = matches.positives[matches.positive_starts[query] : matches.positive_starts[query + 1]]
    first_right = int(right[np.argmin(distances[right])])  # of equal distances the lower index, as in the score
    nearest = nearest_images(distances, matches.removed_mask(query), min(NEAREST, first_rank - 1))
    images = [*enumerate(nearest, start=1), (first_rank, first_right)]
    return Failure(query, images, {index: float(distances[index]) for _, index in images})


def nearest_images(distances: np.ndarray, removed: np.ndarray, count: int) -> list[int]:
    """Return the nearest gallery images of a query that are not removed; of equal distances the lower index first.

    Args:
        distances: distances [G].
        removed: bool [G].
        count: number of images.
    """
    kept = np.flatnonzero(~removed)
    near = distances[kept]
    if count < len(near):  # only the images up to the last distance are sorted
        is_near = near <= np.partition(near, count - 1)[count - 1]
        kept, near = kept[is_near], near[is_near]
    return kept[np.argsort(near, kind="stable")[:count]].tolist()


def confusions(
    failed: Sequence[Failure], query: Sequence[PersonImage], gallery: Sequence[PersonImage], valid: np.ndarray
) -> list[Confusion]:
    """Count which person is taken for which other one, by the nearest image; most frequent first.

    Args:
        failed: failed queries.
        query: query images.
        gallery: gallery images.
        valid: bool [Q]; queries that are scored.
    """
    num_queries = Counter(query[row].person for row in np.flatnonzero(valid).tolist())
    pairs = Counter((query[each.query].person, gallery[each.images[0][1]].person) for each in failed)
    rows = [Confusion(person, other, times, num_queries[person]) for (person, other), times in pairs.items()]
    return sorted(rows, key=lambda row: (-row.times, -row.times / row.queries, row.person, row.taken_for))
