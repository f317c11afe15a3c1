"""Breakdown of the figures by pairs of views or cameras, such as aerial to ground and ground to aerial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from tabulate import tabulate

from fastreid.retrieval.distances import Distances
from fastreid.retrieval.matches import Matches
from fastreid.structures.view import view_name
from fastreid.utils.display_text import printable

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


def with_camera_names(rows: Sequence[Row], names: Mapping[int, str]) -> list[Row]:
    """Return the rows of `break_down` by camera with the names of cameras that have one, {id: name}."""
    shown = {_name("camera", number): name for number, name in names.items()}
    return [row | {side: shown.get(str(row[side]), row[side]) for side in ("query", "gallery")} for row in rows]


def breakdown_table(rows: Sequence[Row]) -> str:
    """Return the rows of `break_down` as a table."""
    # Names that look like numbers stay text.
    table = tabulate(rows, headers="keys", tablefmt="simple_outline", floatfmt=".2f", disable_numparse=[0, 1])
    return printable(table)


def _name(by: str, number: int) -> str:
    return view_name(number) if by == "view" else f"{by} {number}"
