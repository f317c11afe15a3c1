"""Drops pictures that are less sharp than the real images of their person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastreid.generation.filters.base import FILTER_REGISTRY, PictureFilter, Verdict, WrittenPerson
from fastreid.generation.filters.pixels import sharpness
from fastreid.generation.filters.reid_scores import DECIMALS

NAME = "blur"


@FILTER_REGISTRY.register(name=NAME)
class BlurFilter(PictureFilter):
    """Drops pictures whose sharpness is below a share of the median of the real images of the person.

    Sharpness is the variance of the Laplacian, at one size for all pictures: small real images are enlarged and thus
    little sharp, and so may pictures be that are written of their person.

    Args:
        min_sharpness: least sharpness, as a share of that median.
    """

    def __init__(self, *, min_sharpness: float = 0.15) -> None:
        self._least = min_sharpness

    @classmethod
    def from_config(cls, keys: Any) -> BlurFilter:
        """Return the filter of the key MIN_SHARPNESS."""
        return cls(min_sharpness=keys.MIN_SHARPNESS)

    def settings(self) -> dict[str, Any]:
        """Return the argument."""
        return {"min_sharpness": self._least}

    def judge(self, person: WrittenPerson, kept: Sequence[bool], thresholds: Mapping[str, float]) -> list[Verdict]:
        """Return a verdict for each picture.

        Args:
            person: the pictures.
            kept: not used.
            thresholds: not used.
        """
        real = sharpness(person.real_pixels)
        usual = float(np.median(real)) if len(real) else 0.0
        shares = sharpness(person.pixels) / usual if usual else np.ones(len(person.pixels))
        found = shares.round(DECIMALS).tolist()
        return [Verdict(NAME if share < self._least else "", {NAME: share}) for share in found]
