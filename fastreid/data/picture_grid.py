"""Contact sheets of image files: pictures in rows below a title, each with a caption."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Sequence
from typing import TypeVar

from PIL import Image, ImageDraw

from fastreid.data.images import ImageReadError, read_pixels

logger = logging.getLogger(__name__)

T = TypeVar("T")

CELL = (84, 150)
"""Width and height of a cell in pixels, without its caption."""
COLUMNS = 8
_TITLE, _LINE, _FRAME = 24, 14, 3
_LETTERS = 13  # of a line below a cell


def fitted(picture: Image.Image) -> Image.Image:
    """The picture, enlarged or reduced to fit into a cell."""
    scale = min((CELL[0] - 4) / picture.width, (CELL[1] - 4) / picture.height)
    size = (round(picture.width * scale), round(picture.height * scale))
    return picture.resize(size, Image.Resampling.BICUBIC)


def spread_evenly(items: Sequence[T], most: int) -> list[T]:
    """Return at most `most` items, spread evenly over their order; the first and the last one are among them."""
    count = min(len(items), most)
    return [items[round(step * (len(items) - 1) / max(1, count - 1))] for step in range(count)]


def picture_grid(
    title: str,
    paths: Sequence[str],
    captions: Sequence[str] | None = None,
    *,
    frames: Sequence[str] | None = None,
    columns: int = COLUMNS,
) -> Image.Image:
    """Draw image files in rows below a title.

    The cell of a file that cannot be read stays empty, which is logged.

    Args:
        title: one line.
        paths: the files, in their order.
        captions: what is written below each, in as many lines as the longest one needs; None for nothing.
        frames: colour of the frame of each; None for no frames.
        columns: images of a row.
    """
    lines = [textwrap.wrap(caption, _LETTERS) for caption in captions or []]
    height = CELL[1] + _LINE * max(map(len, lines), default=0)
    sheet = Image.new("RGB", (columns * CELL[0], _TITLE + -(-len(paths) // columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((4, 4), title, "black")
    for at, path in enumerate(paths):
        row, column = divmod(at, columns)
        corner = (column * CELL[0], _TITLE + row * height)
        for number, line in enumerate(lines[at] if captions else ()):
            draw.text((corner[0] + 2, corner[1] + CELL[1] - 2 + number * _LINE), line, "black")
        try:
            picture = fitted(Image.fromarray(read_pixels(path)))
        except ImageReadError as error:
            logger.warning("%s is not on the contact sheet of %s: %s", path, title, error)
            continue
        sheet.paste(picture, corner)
        if frames:
            ends = (corner[0] + picture.width - 1, corner[1] + picture.height - 1)
            draw.rectangle((corner, ends), outline=frames[at], width=_FRAME)
    return sheet


def stacked(sheets: Sequence[Image.Image]) -> Image.Image:
    """Return one picture with sheets of equal width below each other.

    Args:
        sheets: at least one.
    """
    whole = Image.new("RGB", (sheets[0].width, sum(sheet.height for sheet in sheets)), "white")
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    return whole
