"""What filters compute from pixels: small grey pictures, their correlation, and sharpness."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

SMALL, SHARP = (16, 32), (64, 128)
"""Width and height in which pictures are compared, and in which sharpness is measured."""
_SHIFT = 1
# Variance of grey values below which a small picture counts as plain: rounding alone gives it less than 1/12.
_PLAIN = 0.1


def small_grey(pixels: Sequence[np.ndarray]) -> np.ndarray:
    """Return pictures in grey and reduced to `SMALL`, each value the mean over its area; float64 [n, 32, 16].

    Args:
        pixels: n arrays uint8 [H, W, 3].
    """
    grey = [_grey(picture, SMALL, Image.Resampling.BOX) for picture in pixels]
    return np.stack(grey) if grey else np.zeros((0, *SMALL[::-1]))


def correlation(pictures: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return how similar each picture is to each of the others: the greatest normalised correlation.

    The greatest over the picture and its mirror image, and over shifts by up to one of its 32 rows or 16 columns. It is
    1 for copies whose brightness or contrast was changed, and 0 for plain pictures.

    Args:
        pictures: from `small_grey`, [n, 32, 16].
        others: from `small_grey`, [m, 32, 16].

    Returns:
        float64 [n, m].
    """
    rows = _normalised(_window(pictures, 0, 0))
    best = np.full((len(pictures), len(others)), -1.0)
    steps = range(-_SHIFT, _SHIFT + 1)
    for turned in (others, others[:, :, ::-1]):
        for down in steps:
            for right in steps:
                np.maximum(best, rows @ _normalised(_window(turned, down, right)).T, out=best)
    return best


def sharpness(pixels: Sequence[np.ndarray]) -> np.ndarray:
    """Return the variance of the Laplacian of each picture, in grey at the size `SHARP`; float64 [n].

    Args:
        pixels: n arrays uint8 [H, W, 3].
    """
    return np.array([_laplacian(_grey(picture, SHARP, Image.Resampling.BILINEAR)).var() for picture in pixels])


def _grey(picture: np.ndarray, size: tuple[int, int], resampling: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).convert("L").resize(size, resampling), dtype=np.float64)


def _laplacian(grey: np.ndarray) -> np.ndarray:
    vertical = grey[:-2, 1:-1] + grey[2:, 1:-1]
    return 4 * grey[1:-1, 1:-1] - vertical - grey[1:-1, :-2] - grey[1:-1, 2:]


def _window(pictures: np.ndarray, down: int, right: int) -> np.ndarray:
    """Return the pictures without a border of `_SHIFT`, shifted."""
    height, width = pictures.shape[1:]
    top, left = _SHIFT + down, _SHIFT + right
    return pictures[:, top : top + height - 2 * _SHIFT, left : left + width - 2 * _SHIFT]


def _normalised(pictures: np.ndarray) -> np.ndarray:
    """Return rows with mean 0 and length 1; 0 for plain pictures."""
    rows = pictures.reshape(len(pictures), pictures.shape[1] * pictures.shape[2])
    rows = rows - rows.mean(axis=1, keepdims=True)
    variance = (rows**2).mean(axis=1, keepdims=True)
    return np.where(variance > _PLAIN, rows / np.sqrt(np.maximum(variance, _PLAIN) * rows.shape[1]), 0.0)
