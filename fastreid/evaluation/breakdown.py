"""Breakdown of the figures by pairs of views or cameras, such as aerial to ground and ground to aerial."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from tabulate import tabulate

from fastreid.retrieval.distances import Distances
from fastreid.retrieval.matches import Matches
from fastreid.structures import View

Row = dict[str, str | int | float]


def break_down(
    distances: Distances, matches: Matches, of_query: np.ndarray, of_gallery: np.ndarray, by: str
) -> list[Row]:
    """Score the queries of each view (or camera) against the gallery images of each view (or camera).

    Pairs without a valid query are skipped. Distances, removal and ties are those of the whole score.

    Args:
        distances: distances of the whole score.
        matches: matches of the whole score.
        of_query: view or camera ids [Q].
        of_gallery: view or camera ids [G].
        by: "view" or "camera".

    Returns:
        Rows with `query`, `gallery` (names), `valid_queries`, and Rank-1, mAP, mINP in percent.
    """
    pairs: list[tuple[int, int]] = []
    parts: list[Matches] = []
    for pair in product(np.unique(of_query), np.unique(of_gallery)):
        part = matches.among(of_query == pair[0], of_gallery == pair[1])
        if part.num_positives.any():
            pairs.append(pair)
            parts.append(part)
    rows: list[Row] = []
    for (source, target), ranking in zip(pairs, distances.rank_each(parts) if parts else [], strict=True):
        rows.append(
            {
                "query": _name(by, int(source)),
                "gallery": _name(by, int(target)),
                "valid_queries": ranking.num_valid_queries,
                "Rank-1": 100.0 * float(ranking.cmc(1)[0]),
                "mAP": 100.0 * ranking.mean_ap,
                "mINP": 100.0 * ranking.mean_inp,
            }
        )
    return rows


def breakdown_table(rows: Sequence[Row]) -> str:
    """Return the rows of `break_down` as a table."""
    return tabulate(rows, headers="keys", tablefmt="simple_outline", floatfmt=".2f")


def _name(by: str, number: int) -> str:
    if by == "view" and number in set(View):
        return View(number).name.lower()
    return f"{by} {number}"
