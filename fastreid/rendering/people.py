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
"""The colours of `Wardrobe` unless it names others."""
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
UPPER_PATTERNS = tuple(
    "plain hoops halves yoke open logo checks pinstripes dots".split()  # all different in a group
)
LOWER_PATTERNS = tuple("plain plain plain side checks".split())
HAIR_STYLES = "bald short short bob long bun".split()
BAGS = "none none backpack backpack shoulder hand".split()
HATS = tuple("none none none cap brim beanie".split())
SLEEVES = (0.25, 0.7, 1.5, 2.0)
"""End of a sleeve: 0 is the shoulder, 1 the elbow, 2 the wrist."""
LEGWEAR = {"trousers": 2.0, "shorts": 0.85, "cropped": 1.5, "skirt": 0.6}
"""End of the cloth on a leg: 0 is the hip, 1 the knee, 2 the ankle."""


@dataclass(frozen=True)
class Wardrobe:
    """What people of one place and season wear; an option that is listed twice is twice as likely.

    Attributes:
        colours: sRGB colours in [0, 1]. Upper and lower clothes use the first `RenderConfig.palette_size`; belongings
            and second colours use all.
        upper_patterns: patterns of upper clothes, at least as many as a look-alike group may have people.
        lower_patterns: patterns of lower clothes.
        sleeves: ends of sleeves: 0 is the shoulder, 1 the elbow, 2 the wrist.
        legwear: names in `LEGWEAR`.
        hats: names of hats.
        coats: how far upper clothes reach below the hip, in body heights; empty for none.
    """

    colours: tuple[RGB, ...] = tuple(CLOTHES.values())
    upper_patterns: tuple[str, ...] = UPPER_PATTERNS
    lower_patterns: tuple[str, ...] = LOWER_PATTERNS
    sleeves: tuple[float, ...] = SLEEVES
    legwear: tuple[str, ...] = tuple(LEGWEAR)
    hats: tuple[str, ...] = HATS
    coats: tuple[float, ...] = ()


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
    coat: float = 0.0


def one_of(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of the options, all equally likely."""
    return options[int(rng.integers(len(options)))]


def _contrast(rng: np.random.Generator, colour: RGB, colours: Sequence[RGB]) -> RGB:
    """One of `colours` that is at least 0.35 away from `colour` in some channel."""
    return one_of(rng, [c for c in colours if np.ptp([c, colour], axis=0).max() > 0.35])


def draw_person(
    group: np.random.Generator,
    own: np.random.Generator,
    member: int,
    config: RenderConfig,
    wardrobe: Wardrobe | None = None,
) -> Person:
    """Draw the `member`-th person (from 0) of a look-alike group.

    Args:
        group: generator with the same seed for all members. It draws what they share (build, colours of upper and
            lower clothes, approximate height) and the order of their upper patterns, which are all different.
        own: generator of the person's other properties.
        member: number of the person in the group.
        config: parameters of the benchmark.
        wardrobe: what people wear; `Wardrobe()` by default.
    """
    wardrobe = wardrobe or Wardrobe()
    height, build = group.normal(1.71, 0.09), float(group.uniform(0.85, 1.22))
    colours = wardrobe.colours
    upper, lower = (one_of(group, colours[: config.palette_size]) for _ in range(2))
    pattern = wardrobe.upper_patterns[group.permutation(len(wardrobe.upper_patterns))[member]]
    return Person(
        height=float(np.clip(height + own.normal(0, config.lookalike_height_spread), 1.48, 1.98)),
        build=build,
        skin=one_of(own, SKINS),
        hair=one_of(own, HAIRS),
        hair_style=one_of(own, HAIR_STYLES),
        upper=Fabric(upper, _contrast(own, upper, colours), pattern),
        lower=Fabric(lower, _contrast(own, lower, colours), one_of(own, wardrobe.lower_patterns)),
        sleeves=one_of(own, wardrobe.sleeves),
        legwear=one_of(own, wardrobe.legwear),
        shoes=one_of(own, colours),
        bag=one_of(own, BAGS),
        bag_colour=_contrast(own, upper, colours),
        hat=one_of(own, wardrobe.hats),
        hat_colour=one_of(own, colours),
        coat=one_of(own, wardrobe.coats) if wardrobe.coats else 0.0,
    )
