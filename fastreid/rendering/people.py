"""The rendered people: the properties of an identity that are the same under all cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .config import RenderConfig
from .textures import RGB, Fabric

T = TypeVar("T")

CLOTHES: dict[str, RGB] = {
    "black": (0.10, 0.10, 0.11),
    "white": (0.90, 0.90, 0.88),
    "navy": (0.12, 0.17, 0.40),
    "red": (0.72, 0.12, 0.14),
    "grey": (0.48, 0.49, 0.50),
    "green": (0.17, 0.42, 0.22),
    "beige": (0.76, 0.66, 0.48),
    "blue": (0.22, 0.46, 0.76),
    "yellow": (0.88, 0.74, 0.20),
    "brown": (0.38, 0.24, 0.14),
    "pink": (0.86, 0.50, 0.60),
    "purple": (0.42, 0.22, 0.50),
}
"""Clothes use the first `RenderConfig.palette_size` colours; belongings and second colours use all."""
SKINS: tuple[RGB, ...] = (
    (0.93, 0.77, 0.66),
    (0.85, 0.66, 0.52),
    (0.70, 0.50, 0.36),
    (0.50, 0.34, 0.24),
    (0.34, 0.23, 0.17),
)
HAIRS: tuple[RGB, ...] = (
    (0.07, 0.06, 0.06),
    (0.22, 0.14, 0.09),
    (0.42, 0.27, 0.14),
    (0.78, 0.63, 0.36),
    (0.55, 0.54, 0.53),
)

# A name that is listed twice is twice as likely.
UPPER_PATTERNS = (
    "plain hoops halves yoke open logo checks pinstripes dots".split()  # all different in a group
)
LOWER_PATTERNS = "plain plain plain side checks".split()
HAIR_STYLES = "bald short short bob long bun".split()
BAGS = "none none backpack backpack shoulder hand".split()
HATS = "none none none cap brim beanie".split()
SLEEVES = (0.25, 0.7, 1.5, 2.0)
"""End of a sleeve: 0 is the shoulder, 1 the elbow, 2 the wrist."""
LEGWEAR = {"trousers": 2.0, "shorts": 0.85, "cropped": 1.5, "skirt": 0.6}
"""End of the cloth on a leg: 0 is the hip, 1 the knee, 2 the ankle."""


@dataclass(frozen=True)
class Person:
    """One identity: body, clothes and belongings. Height in metres, colours sRGB in [0, 1]."""

    height: float
    build: float
    skin: RGB
    hair: RGB
    hair_style: str
    upper: Fabric
    lower: Fabric
    sleeves: float
    legwear: str
    shoes: RGB
    bag: str
    bag_colour: RGB
    hat: str
    hat_colour: RGB


def one_of(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of the options, all equally likely."""
    return options[int(rng.integers(len(options)))]


def _contrast(rng: np.random.Generator, colour: RGB) -> RGB:
    """A colour at least 0.35 away from `colour` in some channel."""
    return one_of(rng, [c for c in CLOTHES.values() if np.ptp([c, colour], axis=0).max() > 0.35])


def draw_person(group: np.random.Generator, own: np.random.Generator, member: int, config: RenderConfig) -> Person:
    """Draw the `member`-th person (from 0) of a look-alike group.

    Args:
        group: generator with the same seed for all members. It draws what they share (build, colours of upper and
            lower clothes, approximate height) and the order of their upper patterns, which are all different.
        own: generator of the person's other properties.
        member: number of the person in the group.
        config: parameters of the benchmark.
    """
    height, build = group.normal(1.71, 0.09), float(group.uniform(0.85, 1.22))
    colours = list(CLOTHES.values())
    upper, lower = (one_of(group, colours[: config.palette_size]) for _ in range(2))
    pattern = UPPER_PATTERNS[group.permutation(len(UPPER_PATTERNS))[member]]
    return Person(
        height=float(np.clip(height + own.normal(0, config.lookalike_height_spread), 1.48, 1.98)),
        build=build,
        skin=one_of(own, SKINS),
        hair=one_of(own, HAIRS),
        hair_style=one_of(own, HAIR_STYLES),
        upper=Fabric(upper, _contrast(own, upper), pattern),
        lower=Fabric(lower, _contrast(own, lower), one_of(own, LOWER_PATTERNS)),
        sleeves=one_of(own, SLEEVES),
        legwear=one_of(own, list(LEGWEAR)),
        shoes=one_of(own, colours),
        bag=one_of(own, BAGS),
        bag_colour=_contrast(own, upper),
        hat=one_of(own, HATS),
        hat_colour=one_of(own, colours),
    )
