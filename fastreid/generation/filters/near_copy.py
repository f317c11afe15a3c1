"""Drops pictures that are nearly equal, in their pixels, to a real image or to another written picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastreid.generation.filters.base import FILTER_REGISTRY, PictureFilter, Verdict, WrittenPerson
from fastreid.generation.filters.pixels import correlation, small_grey
from fastreid.generation.filters.reid_scores import DECIMALS

REAL, KEPT = "near_copy.real", "near_copy.kept"


@FILTER_REGISTRY.register(name="near_copy")
class NearCopyFilter(PictureFilter):
    """Drops near-copies of real images of the person, and of its written pictures that are kept.

    Mirror images, re-compressed, rescaled, slightly shifted ones and those of other brightness are found; see
    `correlation`. Of pictures that are nearly equal, the one with the lowest number is kept.

    Args:
        max_correlation: greatest correlation of different pictures. The default lies between different rendered
            pictures of a person (0.82 at most of 720) and re-compressed, rescaled, mirrored or noisy copies (0.95 at
            least). Frames that follow each other closely in a video may be as similar as copies.
    """

    def __init__(self, *, max_correlation: float = 0.9) -> None:
        self._most = max_correlation

    @classmethod
    def from_config(cls, keys: Any) -> NearCopyFilter:
        """Return the filter of the key MAX_CORRELATION."""
        return cls(max_correlation=keys.MAX_CORRELATION)

    def settings(self) -> dict[str, Any]:
        """Return the argument."""
        return {"max_correlation": self._most}

    def judge(self, person: WrittenPerson, kept: Sequence[bool], thresholds: Mapping[str, float]) -> list[Verdict]:
        """Return a verdict for each picture; only pictures that are still kept make others near-copies.

        Args:
            person: the pictures.
            kept: whether each is kept so far.
            thresholds: not used.
        """
        written = small_grey(person.pixels)
        to_real = _greatest(correlation(written, small_grey(person.real_pixels)))
        to_written = correlation(written, written).round(DECIMALS)
        verdicts: list[Verdict] = []
        earlier: list[int] = []
        for at, real in enumerate(to_real):
            scores = {REAL: float(real), KEPT: float(to_written[at, earlier].max(initial=-1.0))}
            reason = next((name for name, score in scores.items() if score > self._most), "")
            if kept[at] and not reason:
                earlier.append(at)
            verdicts.append(Verdict(reason, scores))
        return verdicts


def _greatest(similarity: np.ndarray) -> np.ndarray:
    return similarity.max(axis=1, initial=-1.0).round(DECIMALS)
