"""The body of a walking person: tapered capsules with sizes relative to the body's height."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .people import LEGWEAR, Person
from .raycast import Frame, Part, squash
from .textures import Fabric

SKIN, HAIR, UPPER, LOWER, SHOES, BAG, HAT = range(7)
"""Indices of a person's fabrics in the list of `fabrics`."""

AHEAD, LEFT, UP = np.eye(3)
"""The walker's own axes."""


@dataclass(frozen=True)
class Pose:
    """Position (metres) and heading (radians) of a person, phase of the gait, and its stride (0: stands)."""

    x: float
    y: float
    heading: float
    phase: float
    stride: float


def fabrics(person: Person) -> list[Fabric]:
    """The fabrics of the parts of `person`."""
    red, green, blue = person.bag_colour
    flap = (0.6 * red, 0.6 * green, 0.6 * blue)
    return [
        Fabric(person.skin),
        Fabric(person.hair),
        person.upper,
        person.lower,
        Fabric(person.shoes),
        Fabric(person.bag_colour, flap, "halves"),
        Fabric(person.hat_colour),
    ]


class _Sculptor:
    """Converts parts from the walker's axes and body heights to world coordinates in metres."""

    def __init__(self, person: Person, pose: Pose, hip_height: float, first_fabric: int) -> None:
        cos, sin = np.cos(pose.heading), np.sin(pose.heading)
        self._turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        self._place, self._scale = np.array([pose.x, pose.y, 0]), person.height
        self._first_fabric = first_fabric
        self.parts: list[Part] = []
        self.hip = hip_height * UP
        self.chest = self.hip + (0.025, 0, 0.285)  # leaning ahead a little
        self._trunk_frame = self._frame(self.hip, self.chest)

    def _world(self, point: np.ndarray) -> np.ndarray:
        return self._turn @ (self._scale * point) + self._place

    def _frame(self, start: np.ndarray, end: np.ndarray) -> Frame:
        up = self._turn @ (end - start) / np.linalg.norm(end - start)
        return Frame(self._world(start), up, self._turn @ AHEAD)

    def add(
        self,
        start: np.ndarray,
        end: np.ndarray,
        r0: float,
        r1: float,
        fabric: int,
        *,
        flat: tuple[np.ndarray, float] | None = None,
        trunk: bool = False,
        cut: float = 1.0,
        open_end: bool = False,
    ) -> None:
        """Add a part.

        Args:
            start: one end of its axis.
            end: the other end.
            r0: radius at `start`.
            r1: radius at `end`.
            fabric: index of its fabric.
            flat: (axis, factor) by which it is squashed.
            trunk: use the pattern coordinates of the trunk instead of its own.
            cut: share of the axis from which skin is visible.
            open_end: leave the ball at `end` out.
        """
        metres = self._scale
        self.parts.append(
            Part(
                start=self._world(start),
                end=self._world(end),
                r0=r0 * metres,
                r1=r1 * metres,
                fabric=self._first_fabric + fabric,
                below=self._first_fabric + SKIN,
                cut=cut,
                open_end=open_end,
                frame=self._trunk_frame if trunk else self._frame(start, end),
                **({} if flat is None else {"squash": squash(self._turn @ flat[0], flat[1])}),
            )
        )


def _hang(angle: float, length: float) -> np.ndarray:
    """The vector of a limb of `length` that points down, turned ahead by `angle` radians."""
    return length * (np.sin(angle) * AHEAD - np.cos(angle) * UP)


def _gait(pose: Pose) -> list[tuple[float, float]]:
    """Angles (thigh, shin) of the left and the right leg; the knee of the leg that moves ahead bends."""
    angles = []
    for phase in (pose.phase, pose.phase + np.pi):
        thigh = 0.5 * pose.stride * np.sin(phase)
        angles.append((thigh, thigh - pose.stride * max(0.05, 0.85 * np.cos(phase - 0.3))))
    return angles


def body_parts(person: Person, pose: Pose, first_fabric: int = 0) -> list[Part]:
    """The parts of `person`, standing on z = 0; the indices of their fabrics start at `first_fabric`."""
    gait = _gait(pose)
    leg = max(0.245 * np.cos(thigh) + 0.235 * np.cos(shin) for thigh, shin in gait)
    make = _Sculptor(person, pose, leg + 0.045, first_fabric)
    _add_trunk(make, person)
    for side, (thigh, shin) in zip((LEFT, -LEFT), gait, strict=True):
        _add_leg(make, person, make.hip + 0.052 * side, thigh, shin)
        shoulder = make.chest + (0.095 + 0.018 * person.build) * side + 0.004 * UP
        _add_arm(make, person, shoulder, side, swing=-0.9 * thigh)
    _add_head(make, person)
    _add_bag(make, person)
    return make.parts


def _add_trunk(make: _Sculptor, person: Person) -> None:
    hip, chest, build = make.hip, make.chest, person.build
    hem, across = hip + 0.005 * UP, (0.085 + 0.012 * build) * LEFT
    make.add(hip - 0.02 * UP, hip + 0.09 * UP, 0.089 * build, 0.081 * build, LOWER, flat=(AHEAD, 0.66), trunk=True)
    top = chest - 0.045 * UP
    make.add(top, hem, 0.104 * build, 0.095 * build, UPPER, flat=(AHEAD, 0.68), trunk=True, open_end=True)
    if person.coat:
        waist, hem = hip + 0.05 * UP, hip - person.coat * UP
        make.add(waist, hem, 0.096 * build, 0.128 * build, UPPER, flat=(AHEAD, 0.85), trunk=True, open_end=True)
    make.add(chest - across, chest + across, 0.042, 0.042, UPPER, trunk=True)
    make.add(chest, chest + (0.008, 0, 0.06), 0.034, 0.031, SKIN)
    if person.legwear == "skirt":
        waist, hem = hip + 0.03 * UP, hip - 0.21 * UP
        make.add(waist, hem, 0.086 * build, 0.132 * build, LOWER, flat=(AHEAD, 0.85), trunk=True, open_end=True)


def _add_leg(make: _Sculptor, person: Person, hip: np.ndarray, thigh: float, shin: float) -> None:
    build, cloth = person.build, LEGWEAR[person.legwear]
    loose = 1.12 if cloth == 2 else 1.0
    knee = hip + _hang(thigh, 0.245)
    ankle = knee + _hang(shin, 0.235)
    toes = ankle + 0.105 * (np.cos(shin) * AHEAD + np.sin(shin) * UP) - 0.018 * UP
    make.add(hip, knee, 0.056 * build, 0.037 * build * loose, LOWER, cut=cloth)
    make.add(knee, ankle, 0.035 * build * loose, 0.024 * loose, LOWER, cut=cloth - 1)
    make.add(ankle - (0.015, 0, 0.012), toes, 0.030, 0.022, SHOES)


def _add_arm(make: _Sculptor, person: Person, shoulder: np.ndarray, side: np.ndarray, swing: float) -> None:
    build, cloth = person.build, person.sleeves
    loose = 1.15 if cloth > 1 else 1.0
    elbow = shoulder + _hang(swing, 0.165) + 0.03 * side
    wrist = elbow + _hang(swing + 0.35, 0.145) + 0.01 * side
    make.add(shoulder, elbow, 0.037 * build**0.5, 0.027 * build * loose, UPPER, cut=cloth)
    make.add(elbow, wrist, 0.026 * build * loose, 0.020 * loose, UPPER, cut=cloth - 1)
    make.add(wrist, wrist + _hang(swing + 0.35, 0.05), 0.021, 0.019, SKIN)


def _add_head(make: _Sculptor, person: Person) -> None:
    centre = make.chest + (0.012, 0, 0.125)

    def add(x0: float, z0: float, x1: float, z1: float, *rest, **options) -> None:
        make.add(centre + (x0, 0, z0), centre + (x1, 0, z1), *rest, **options)

    add(0.010, -0.022, -0.004, 0.022, 0.039, 0.050, SKIN, flat=(LEFT, 0.86))
    if person.hair_style != "bald":
        add(-0.020, -0.004, -0.010, 0.028, 0.046, 0.050, HAIR, flat=(LEFT, 0.92))
    if person.hair_style == "bob":
        add(-0.024, -0.030, -0.018, 0.015, 0.049, 0.054, HAIR)
    if person.hair_style == "long":
        add(-0.035, -0.130, -0.020, 0.015, 0.042, 0.053, HAIR)
    if person.hair_style == "bun":
        add(-0.062, 0.040, -0.050, 0.035, 0.028, 0.030, HAIR)
    if person.hat != "none":
        add(-0.010, 0.026, -0.008, 0.038, 0.054, 0.053, HAT, flat=(UP, 0.9))
    if person.hat == "cap":
        add(0.030, 0.028, 0.062, 0.024, 0.040, 0.036, HAT, flat=(UP, 0.2))
    if person.hat == "brim":
        add(-0.012, 0.024, -0.004, 0.024, 0.105, 0.105, HAT, flat=(UP, 0.12))


def _add_bag(make: _Sculptor, person: Person) -> None:
    hip, chest = make.hip, make.chest

    def add(start: np.ndarray, end: np.ndarray, r0: float, r1: float, **options) -> None:
        make.add(start, end, r0, r1, BAG, trunk=True, **options)

    if person.bag == "backpack":
        back = -0.10 * AHEAD
        add(hip + back + 0.08 * UP, chest + back - 0.03 * UP, 0.088, 0.078, flat=(AHEAD, 0.6))
        for side in (LEFT, -LEFT):
            front = chest + 0.064 * person.build * AHEAD + 0.06 * side
            add(front - 0.14 * UP, front - 0.02 * UP, 0.014, 0.014)
            add(front - 0.02 * UP, chest + 0.06 * side + 0.035 * UP, 0.014, 0.014)
    if person.bag == "shoulder":
        side = hip + (0.01, 0.135, 0)
        add(side, side + 0.08 * UP, 0.085, 0.070, flat=(LEFT, 0.45))
        add(side + 0.08 * UP, chest + (0.03, -0.07, 0.03), 0.014, 0.014)
    if person.bag == "hand":
        hand = hip + (0.03, -0.165, -0.10)
        add(hand, hand - 0.07 * UP, 0.055, 0.085, flat=(LEFT, 0.5))
