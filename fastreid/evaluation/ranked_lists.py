"""What a report shows of a protocol, as plain types for JSON: ranked lists, failed queries, who is taken for whom."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastreid.evaluation.scoring import ProtocolResult
from fastreid.structures import UNNAMED_PERSON, PersonImage
from fastreid.utils.display_text import printable

logger = logging.getLogger(__name__)

QUERIES_PER_KIND = 3
LIST_LENGTH = 10
NEAREST = 3  # images of a failed query, beside the first right one
LOGGED_PAIRS = 5
UNLABELLED = "unlabelled"


@dataclass(frozen=True)
class Names:
    """Names of people and cameras whose names are not their ids.

    Attributes:
        people: {id: name}.
        cameras: {id: name}.
    """

    people: Mapping[int, str] = field(default_factory=dict)
    cameras: Mapping[int, str] = field(default_factory=dict)

    def person(self, number: int, key: str = "person") -> dict[str, int | str]:
        """Return {key: id}, and the name as `key_name` if the person has one or has no label."""
        name = UNLABELLED if number == UNNAMED_PERSON else self.people.get(number)
        return {key: number} if name is None else {key: number, f"{key}_name": name}

    def describe(self, image: PersonImage) -> dict[str, Any]:
        """Return path, person, camera and view of an image."""
        described = {"path": str(image.path), **self.person(int(image.person)), "camera": int(image.camera)}
        if image.camera in self.cameras:
            described["camera_name"] = self.cameras[image.camera]
        return described | {"view": int(image.view)}


def ranked_lists(
    result: ProtocolResult, query: Sequence[PersonImage], gallery: Sequence[PersonImage], names: Names | None = None
) -> dict[str, Any]:
    """Return what a report shows of one protocol, from the distances that were scored.

    Args:
        result: result of the protocol.
        query: query images.
        gallery: gallery images.
        names: names of people and cameras, which are given beside their ids.

    Returns:
        `chance` (percent), `views` (those that occur), `ap_by_query` (path -> percent, valid queries), and

        - `queries`, each with `kind` (best, median, worst), its figures, the image, and `gallery`: the nearest images
          after removal, ties by gallery index as in the score;
        - `failed`: the same of every query whose nearest image shows another person, worst AP first. Its `gallery` has
          the three nearest images and the first right one;
        - `confusions`: rows with `person`, `taken_for` (the person of the nearest image), `times`, and `queries`, the
          number of valid queries of the person; most frequent first.
    """
    names, ranking = names or Names(), result.ranking
    lists = _Lists(result, query, gallery, names)
    valid = np.flatnonzero(ranking.valid).tolist()
    failed = lists.failed()
    return {
        "chance": result.chance,
        "views": sorted({int(image.view) for image in (*query, *gallery)}),
        "ap_by_query": {query[row].path: 100.0 * float(ranking.ap[row]) for row in valid},
        "queries": [{"kind": kind, **lists.nearest(row)} for kind, row in pick_queries(ranking.ap)],
        "failed": failed,
        "confusions": _confusions(failed, Counter(int(query[row].person) for row in valid), names),
    }


def _confusions(
    failed: Sequence[Mapping[str, Any]], num_queries: Mapping[int, int], names: Names
) -> list[dict[str, Any]]:
    """Count which person is taken for which other one, by the nearest image; most frequent first.

    Args:
        failed: failed queries.
        num_queries: number of valid queries of each person.
        names: names of people.
    """
    pairs = Counter((each["query"]["person"], each["gallery"][0]["person"]) for each in failed)
    ordered = sorted(pairs.items(), key=lambda pair: (-pair[1], num_queries[pair[0][0]], pair[0]))
    return [
        {
            **names.person(person),
            **names.person(other, "taken_for"),
            "times": times,
            "queries": num_queries[person],
        }
        for (person, other), times in ordered
    ]


@dataclass(frozen=True)
class _Lists:
    """Makes the ranked lists of one protocol."""

    result: ProtocolResult
    query: Sequence[PersonImage]
    gallery: Sequence[PersonImage]
    names: Names

    def nearest(self, row: int) -> dict[str, Any]:
        """Return a query with its nearest images."""
        distances = self.result.distances_of(row)
        images = nearest_images(distances, self.result.matches.removed_mask(row), LIST_LENGTH)
        return self.of(row, list(enumerate(images, start=1)), {index: float(distances[index]) for index in images})

    def failed(self) -> list[dict[str, Any]]:
        """Return all queries whose nearest image shows another person, worst AP first; equal AP by row.

        Their distances are computed once more, a few rows at a time, and only those of a few images are kept.
        """
        ranking = self.result.ranking
        rows = self.result.distances.rows_of(np.flatnonzero(ranking.first_match_rank > 1), "looking at failed queries")
        lists = {row: self._failed(row, distances) for row, distances in rows}
        return [lists[row] for row in sorted(lists, key=lambda row: ranking.ap[row])]

    def _failed(self, row: int, distances: np.ndarray) -> dict[str, Any]:
        """Return a failed query with its nearest images and the first right one."""
        matches, first_rank = self.result.matches, int(self.result.ranking.first_match_rank[row])
        right = matches.positives[matches.positive_starts[row] : matches.positive_starts[row + 1]]
        first_right = int(right[np.argmin(distances[right])])  # of equal distances the lower index, as in the score
        nearest = nearest_images(distances, matches.removed_mask(row), min(NEAREST, first_rank - 1))
        images = [*enumerate(nearest, start=1), (first_rank, first_right)]
        return self.of(row, images, {index: float(distances[index]) for _, index in images})

    def of(self, row: int, images: Sequence[tuple[int, int]], distances: Mapping[int, float]) -> dict[str, Any]:
        """Return a query with some images, (rank, gallery index) each."""
        ranking, query = self.result.ranking, self.query[row]
        return {
            "AP": 100.0 * float(ranking.ap[row]),
            "INP": 100.0 * float(ranking.inp[row]),
            "first_match_rank": int(ranking.first_match_rank[row]),
            "num_positives": int(ranking.num_positives[row]),
            "num_valid_gallery": int(ranking.num_valid_gallery[row]),
            "query": self.names.describe(query),
            "gallery": [
                {
                    "rank": rank,
                    **self.names.describe(self.gallery[index]),
                    "match": self.gallery[index].person == query.person,
                    "distance": distances[index],
                }
                for rank, index in images
            ],
        }


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


def pick_queries(ap: np.ndarray, count: int = QUERIES_PER_KIND) -> list[tuple[str, int]]:
    """Return (kind, query row) of the best, median and worst queries; no query twice, ties by lower row.

    Args:
        ap: average precision [Q], NaN for queries that are not scored.
        count: queries of each kind.
    """
    scored = np.flatnonzero(~np.isnan(ap))
    order = scored[np.argsort(-ap[scored], kind="stable")].tolist()
    best, rest = order[:count], order[count:]
    worst, middle = rest[::-1][:count], rest[: max(0, len(rest) - count)]
    start = max(0, (len(middle) - count + 1) // 2)
    median = middle[start : start + count]
    return [(kind, row) for kind, rows in (("best", best), ("median", median), ("worst", worst)) for row in rows]


def log_failures(name: str, lists: Mapping[str, Any]) -> None:
    """Log how many queries of a protocol failed, and who is most often taken for whom.

    Args:
        name: name of the protocol.
        lists: its ranked lists.
    """
    failed, pairs = lists["failed"], lists["confusions"]
    if not failed:
        return
    shown = [printable(_in_words(pair)) for pair in pairs[:LOGGED_PAIRS]]
    logger.info(
        "%s: the nearest image shows another person for %d of %d queries, which ranked_lists.json lists. %s%s",
        name, len(failed), len(lists["ap_by_query"]), "; ".join(shown), "; …" if len(pairs) > len(shown) else "",
    )  # fmt: skip


def _in_words(pair: Mapping[str, Any]) -> str:
    person, other = (str(pair.get(f"{key}_name", pair[key])) for key in ("person", "taken_for"))
    return f"Person {person} is taken for {other} in {pair['times']} of {pair['queries']} queries"
