"""Patterns of clothes and of the ground: each is the share of a second colour at a point."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np

RGB = tuple[float, float, float]


class Fabric(NamedTuple):
    """Two sRGB colours in [0, 1] and the pattern (a key of `PATTERNS`) that mixes them."""

    colour: RGB
    second: RGB = (0.0, 0.0, 0.0)
    pattern: str = "plain"


def _noise_table() -> np.ndarray:
    """A fixed, seamless [256, 256] table of smooth noise in [0, 1]: three octaves of cells."""
    rng = np.random.default_rng(20)
    table = np.zeros((256, 256), np.float32)
    for cell, weight in ((8, 0.5), (2, 0.3), (1, 0.2)):
        octave: np.ndarray = rng.random((256 // cell, 256 // cell), np.float32).repeat(cell, 0).repeat(cell, 1)
        for axis in (0, 1):
            octave = cast(np.ndarray, sum(np.roll(octave, shift, axis) for shift in range(cell))) / cell
        table += weight * octave
    return (table - table.min()) / (table.max() - table.min())


_NOISE = _noise_table()


def noise(u: np.ndarray, v: np.ndarray, per_metre: float) -> np.ndarray:
    """Smooth noise in [0, 1] with `per_metre` table cells per metre, which repeats after 256 cells."""
    column, row = (np.floor(x * np.float32(per_metre)).astype(np.int32) & 255 for x in (u, v))
    return _NOISE[row, column]


def _phase(x: np.ndarray, period: float) -> np.ndarray:
    """Position of `x` in its period, in [0, 1)."""
    x = x / np.float32(period)
    return x - np.floor(x)


def _lines(x: np.ndarray, period: float, width: float, soft: float = 0.03) -> np.ndarray:
    """Lines `width` metres wide, one per `period`; their edges fade over `soft` metres."""
    off = np.abs(_phase(x, period) - np.float32(0.5)) * np.float32(period)
    return np.clip((np.float32(width / 2) - off) / np.float32(soft) + np.float32(0.5), 0, 1)


def _dots(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (_phase(u, 0.1) - 0.5) ** 2 + (_phase(v, 0.1) - 0.5) ** 2 < 0.1


def _logo(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (np.abs(u) < 0.1) & (v > 0.22) & (v < 0.40)


def _bricks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    row = np.floor(v / np.float32(0.2) - np.float32(0.5))
    return np.maximum(_lines(v, 0.2, 0.02), _lines(u + np.float32(0.22) * row, 0.44, 0.02))


# On the trunk v runs up from the hip (hem about 0, shoulders about 0.5) and u runs around it from
# the middle of the chest; on a limb v runs outward from the joint nearest to the trunk. On the
# ground both are horizontal; on a wall v runs up.
PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "plain": lambda u, v: np.zeros_like(u),
    "hoops": lambda u, v: _phase(v, 0.11) < 0.45,
    "pinstripes": lambda u, v: _phase(u + 0.02, 0.085) < 0.4,
    "checks": lambda u, v: 0.5 * (_phase(u, 0.12) < 0.5) + 0.5 * (_phase(v, 0.12) < 0.5),
    "dots": _dots,
    "halves": lambda u, v: v < 0.22,
    "yoke": lambda u, v: v > 0.36,
    "open": lambda u, v: np.abs(u) < 0.06,
    "logo": _logo,
    "side": lambda u, v: np.abs(np.abs(u) - 0.12) < 0.03,
    "asphalt": lambda u, v: 0.6 * noise(u, v, 20) + 0.4 * noise(u, v, 3),
    "grass": lambda u, v: 0.5 * noise(u, v, 45) + 0.5 * noise(u, v, 5),
    "paving": lambda u, v: np.maximum(np.maximum(_lines(u, 0.6, 0.02), _lines(v, 0.6, 0.02)), 0.35 * noise(u, v, 12)),
    "crossing": lambda u, v: 0.9 * _lines(v, 1.1, 0.55, soft=0.05) + 0.1 * noise(u, v, 20),
    "bricks": lambda u, v: np.maximum(_bricks(u, v), 0.3 * noise(u, v, 6)),
    "plaster": lambda u, v: 0.7 * noise(u, v, 4) + 0.3 * noise(u, v, 25),
    "leaves": lambda u, v: 1.5 * noise(u, v, 16) * noise(v, u, 30),
    "windows": lambda u, v: _lines(u, 2.2, 1.2) * _lines(v + 0.4, 1.9, 1.2),
    "tiles": lambda u, v: np.maximum(np.maximum(_lines(u, 0.3, 0.02), _lines(v, 0.3, 0.02)), 0.3 * noise(u, v, 2)),
    "cobbles": lambda u, v: np.maximum(_bricks(1.5 * u, 1.5 * v), 0.6 * noise(u, v, 9)),
    "awnings": lambda u, v: np.where(v > 1.7, _phase(u, 0.6) < 0.5, 0.2 + 0.8 * noise(u, v, 5)),
    "panels": lambda u, v: np.maximum(
        np.maximum(_lines(u, 1.2, 0.03), _lines(v, 1.0, 0.03)), 0.35 * noise(u, 9 * v, 3)
    ),
    "shopfronts": lambda u, v: _lines(u, 3.0, 2.2) * _lines(v, 3.2, 1.9) * (0.45 + 0.55 * noise(u, v, 4)),
    "planks": lambda u, v: np.maximum(_lines(u, 0.25, 0.015), 0.4 * noise(8 * u, v, 5)),
}


def paint(fabric: Fabric, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Linear-light colours [N, 3] of a fabric at coordinates `u`, `v` [N] in metres."""
    first, second = np.array([fabric.colour, fabric.second], np.float32) ** np.float32(2.2)
    share = np.asarray(PATTERNS[fabric.pattern](u, v), np.float32)[:, None]
    return first + share * (second - first)
