"""Pillow's bicubic resize followed by a crop, compiled where possible, with the same bits."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

logger = logging.getLogger(__name__)

Size = tuple[int, int]
"""(height, width)."""
Rectangle = tuple[int, int, int, int]
"""(top, left, height, width)."""


def resize(pixels: np.ndarray, size: Size, crop: Rectangle | None = None, *, mirrored: bool = False) -> np.ndarray:
    """Resize as `Image.resize` with BICUBIC does, then crop.

    Args:
        pixels: uint8 [h, w, 3].
        size: (height, width) of the resized image.
        crop: part of the resized image that is returned, the whole image by default; black outside of the image.
        mirrored: mirror the part from left to right.

    Returns:
        uint8 [3, height, width].
    """
    crop = (0, 0, *size) if crop is None else crop
    compiled = compiled_resize()
    if compiled is None:
        return resize_by_pillow(pixels, size, crop, mirrored=mirrored)
    return compiled(np.ascontiguousarray(pixels), size, crop, mirrored=mirrored)


def resize_by_pillow(pixels: np.ndarray, size: Size, crop: Rectangle, *, mirrored: bool = False) -> np.ndarray:
    """Do the same by Pillow alone."""
    resized = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC))
    top, left, height, width = crop
    part = np.zeros((height, width, 3), np.uint8)
    rows, columns = slice(max(top, 0), max(top + height, 0)), slice(max(left, 0), max(left + width, 0))
    inside = resized[rows, columns]
    first_row, first_column = max(-top, 0), max(-left, 0)
    part[first_row : first_row + inside.shape[0], first_column : first_column + inside.shape[1]] = inside
    return np.ascontiguousarray((part[:, ::-1] if mirrored else part).transpose(2, 0, 1))


@functools.cache
def compiled_resize() -> Callable[..., np.ndarray] | None:
    """The compiled resize, or None if it is not built or gives other pixels than the installed Pillow.

    Recent versions of Pillow resize rows before columns where that is much less work. The rounding in between changes
    pixels, so both orders are compared with Pillow's result.
    """
    try:
        from fastreid.data.resize_cylib.resize_cy import resize as compiled
    except Exception:  # a module built for other versions may raise anything
        logger.warning(
            "the compiled resize is missing: Pillow resizes, to the same pixels but slower; install a C compiler and "
            "run python setup.py build_ext --inplace"
        )
        return None
    for is_rows_first in (_rows_first_if_much_less_work, _columns_first):
        as_pillow = functools.partial(_resize_in_order, compiled, is_rows_first)
        if all(_is_as_pillow(as_pillow, *sizes) for sizes in _PROBES):
            return as_pillow
    logger.warning("this Pillow resizes differently from the compiled resize: Pillow is used, slower")
    return None


# (h, w) and the size to resize to: larger, smaller, and smaller in one direction only.
_PROBES = (((9, 5), (31, 17)), ((40, 23), (17, 11)), ((50, 12), (20, 16)), ((13, 60), (26, 20)), ((31, 8), (30, 8)))


def _is_as_pillow(compiled: Callable[..., np.ndarray], given: Size, size: Size) -> bool:
    pixels = np.random.default_rng(0).integers(0, 256, (*given, 3), dtype=np.uint8)
    whole = (0, 0, *size)
    return np.array_equal(compiled(pixels, size, whole), resize_by_pillow(pixels, size, whole))


def _resize_in_order(
    compiled: Callable[..., np.ndarray], is_rows_first: Callable[[Size, Size], bool], pixels: np.ndarray, size: Size,
    crop: Rectangle, **options: Any,
) -> np.ndarray:  # fmt: skip
    return compiled(pixels, size, crop, rows_first=is_rows_first(pixels.shape[:2], size), **options)


def _rows_first_if_much_less_work(given: Size, size: Size) -> bool:
    return given[0] > size[0] and given[0] - size[0] > 2 * (given[1] - size[1])


def _columns_first(given: Size, size: Size) -> bool:
    return False
