"""The contact sheet of the filter stage: some of the kept pictures, and of those that each filter dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from fastreid.data.picture_grid import picture_grid, spread_evenly, stacked
from fastreid.generation.filters.base import UNREADABLE
from fastreid.generation.rows import Row

SHOWN = 16
"""Most pictures of each reason."""


def filter_sheet(rows: Sequence[Row], files: Mapping[tuple[int, int], Path]) -> Image.Image:
    """Draw a band of pictures for "kept" and for each reason, spread evenly over the people.

    A picture has its person and number as caption, and the score that decided, if one did.

    Args:
        rows: of the filter stage.
        files: (gid, number) -> the picture.
    """
    bands: dict[str, list[Row]] = {"": []}
    for row in sorted(rows, key=lambda row: (row["reason"], row["gid"], row["number"])):
        bands.setdefault(row["reason"], []).append(row)
    return stacked([_band(reason, members, files) for reason, members in bands.items()])


def _band(reason: str, rows: Sequence[Row], files: Mapping[tuple[int, int], Path]) -> Image.Image:
    known = [row for row in rows if (row["gid"], row["number"]) in files]
    shown = [] if reason == UNREADABLE else spread_evenly(known, SHOWN)
    title = f"{f'dropped, {reason}' if reason else 'kept'}: {len(rows)}, of which {len(shown)} are shown"
    paths = [str(files[row["gid"], row["number"]]) for row in shown]
    return picture_grid(title, paths, [_caption(row) for row in shown])


def _caption(row: Row) -> str:
    score = row["scores"].get(row["reason"])
    return f"{row['gid']}/{row['number']}" + ("" if score is None else f" {score:.3g}")
