"""Ranked lists of the best, median and worst queries with their nearest images, as plain types for JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from fastreid.evaluation.scoring import ProtocolResult
from fastreid.structures import PersonImage

QUERIES_PER_KIND = 3
LIST_LENGTH = 10


def ranked_lists(
    result: ProtocolResult,
    query: Sequence[PersonImage],
    gallery: Sequence[PersonImage],
    person_names: Mapping[int, str] | None = None,
    camera_names: Mapping[int, str] | None = None,
) -> dict[str, Any]:
    """Return what a report shows of one protocol, from the distances that were scored.

    Args:
        result: result of the protocol.
        query: query images.
        gallery: gallery images.
        person_names: {id: name} of people whose names are not their ids; shown instead of the id.
        camera_names: the same of cameras.

    Returns:
        `chance` (percent), `ap_by_query` (path -> percent, valid queries) and `queries`, each with `kind` (best,
        median, worst), its figures, the image, and `gallery`: the nearest images after removal, ties by gallery index
        as in the score.
    """
    matches, ranking = result.matches, result.ranking
    describe = partial(_describe, person_names=person_names or {}, camera_names=camera_names or {})
    shown = []
    for kind, row in pick_queries(ranking.ap):
        shown.append(
            {
                "kind": kind,
                "AP": 100.0 * float(ranking.ap[row]),
                "INP": 100.0 * float(ranking.inp[row]),
                "first_match_rank": int(ranking.first_match_rank[row]),
                "num_positives": int(ranking.num_positives[row]),
                "num_valid_gallery": int(ranking.num_valid_gallery[row]),
                "query": describe(query[row]),
                "gallery": _nearest(result.distances_of(row), matches.removed_mask(row), query[row], gallery, describe),
            }
        )
    return {
        "chance": result.chance,
        "ap_by_query": {
            query[row].path: 100.0 * float(ranking.ap[row]) for row in np.flatnonzero(ranking.valid).tolist()
        },
        "queries": shown,
    }


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


def _nearest(
    distances: np.ndarray,
    removed: np.ndarray,
    query: PersonImage,
    gallery: Sequence[PersonImage],
    describe: Callable[[PersonImage], dict[str, Any]],
) -> list[dict[str, Any]]:
    kept = np.flatnonzero(~removed)
    order = kept[np.argsort(distances[kept], kind="stable")[:LIST_LENGTH]]
    return [
        {
            "rank": rank,
            **describe(gallery[index]),
            "match": gallery[index].person == query.person,
            "distance": float(distances[index]),
        }
        for rank, index in enumerate(order.tolist(), start=1)
    ]


def _describe(image: PersonImage, person_names: Mapping[int, str], camera_names: Mapping[int, str]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "path": str(image.path),
        "person": int(image.person),
        "camera": int(image.camera),
        "view": int(image.view),
    }
    if image.person in person_names:
        described["person_name"] = person_names[image.person]
    if image.camera in camera_names:
        described["camera_name"] = camera_names[image.camera]
    return described
