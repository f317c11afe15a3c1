"""Pillow's bicubic resize, and the part of the result that a crop keeps: compiled where it was built, the same bits."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

logger = logging.getLogger(__name__)

Size = tuple[int, int]
Part = tuple[int, int, int, int]


def resize(pixels: np.ndarray, size: Size, kept: Part | None = None, *, mirrored: bool = False) -> np.ndarray:
    """Resize as `Image.resize` with BICUBIC does, then crop.

    Args:
        pixels: uint8 [h, w, 3].
        size: (height, width) of the resized image.
        kept: (top, left, height, width) of the part of it that is returned, all of it if left out; black where the
            part is outside of the image.
        mirrored: the part from right to left.
    Returns: uint8 [3, height, width].
    """
    kept = (0, 0, *size) if kept is None else kept
    compiled = compiled_resize()
    if compiled is None:
        return resize_by_pillow(pixels, size, kept, mirrored=mirrored)
    return compiled(np.ascontiguousarray(pixels), size, kept, mirrored=mirrored)


def resize_by_pillow(pixels: np.ndarray, size: Size, kept: Part, *, mirrored: bool = False) -> np.ndarray:
    """The same, by Pillow alone."""
    resized = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC))
    top, left, height, width = kept
    part = np.zeros((height, width, 3), np.uint8)
    rows, columns = slice(max(top, 0), max(top + height, 0)), slice(max(left, 0), max(left + width, 0))
    inside = resized[rows, columns]
    first_row, first_column = max(-top, 0), max(-left, 0)
    part[first_row : first_row + inside.shape[0], first_column : first_column + inside.shape[1]] = inside
    return np.ascontiguousarray((part[:, ::-1] if mirrored else part).transpose(2, 0, 1))


@functools.cache
def compiled_resize() -> Callable[..., np.ndarray] | None:
    """The compiled resize if there is one and it gives the bits of the Pillow that is installed.

    Pillow's newer versions weigh rows before columns where that is much less work. Rounding in between makes that other
    pixels, so which way to go is found out by trying.
    """
    try:
        from fastreid.data.resize_cylib.resize_cy import resize as compiled
    except Exception:  # one that was built for other versions raises anything
        logger.warning(
            "the compiled resize is missing: Pillow resizes, to the same pixels but slower; install a C compiler and "
            "run python setup.py build_ext --inplace"
        )
        return None
    for way in (_rows_first_if_much_less_work, _columns_first):
        as_pillow = functools.partial(_resize_in_order, compiled, way)
        if all(_is_as_pillow(as_pillow, *sizes) for sizes in _PROBES):
            return as_pillow
    logger.warning("this Pillow resizes otherwise than the compiled resize does: Pillow is used, slower")
    return None


# (h, w) and the size it is resized to: larger, smaller, and smaller in one direction only.
_PROBES = (((9, 5), (31, 17)), ((40, 23), (17, 11)), ((50, 12), (20, 16)), ((13, 60), (26, 20)), ((31, 8), (30, 8)))


def _is_as_pillow(compiled: Callable[..., np.ndarray], given: Size, size: Size) -> bool:
    pixels = np.random.default_rng(0).integers(0, 256, (*given, 3), dtype=np.uint8)
    whole = (0, 0, *size)
    return np.array_equal(compiled(pixels, size, whole), resize_by_pillow(pixels, size, whole))


def _resize_in_order(
    compiled: Callable[..., np.ndarray], is_rows_first: Callable[[Size, Size], bool], pixels: np.ndarray, size: Size,
    kept: Part, **options: Any,
) -> np.ndarray:  # fmt: skip
    return compiled(pixels, size, kept, rows_first=is_rows_first(pixels.shape[:2], size), **options)


def _rows_first_if_much_less_work(given: Size, size: Size) -> bool:
    return given[0] > size[0] and given[0] - size[0] > 2 * (given[1] - size[1])


def _columns_first(given: Size, size: Size) -> bool:
    return False
