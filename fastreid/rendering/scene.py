"""The scene in front of a camera: the person, a passer-by, an obstacle."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fastreid.structures import View

from .body import Pose, body_parts, fabrics
from .cameras import CONCRETE, LEAVES, PERSON_MIDDLE
from .config import RenderConfig
from .people import CLOTHES, Person, Wardrobe, draw_person, one_of
from .raycast import Frame, Part, Pinhole, squash
from .textures import Fabric

UP = np.array([0.0, 0.0, 1.0])


class Scene:
    """Parts, and the fabrics that their indices refer to."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.fabrics: list[Fabric] = []

    def add_person(self, person: Person, pose: Pose) -> None:
        """Add a person in a pose."""
        self.parts += body_parts(person, pose, first_fabric=len(self.fabrics))
        self.fabrics += fabrics(person)

    def add_part(self, start: np.ndarray, end: np.ndarray, r0: float, r1: float, fabric: Fabric, **shape) -> None:
        """Add one part; its pattern starts at `start`, with the seam on a side that is not visible."""
        along = (end - start) / np.linalg.norm(end - start)
        front = np.cross(along, UP) if abs(along[2]) < 0.9 else np.array([1.0, 0, 0])
        frame = Frame(start, along, front / np.linalg.norm(front))
        self.parts.append(Part(start, end, r0, r1, len(self.fabrics), frame, **shape))
        self.fabrics.append(fabric)


def add_passer_by(scene: Scene, rng: np.random.Generator, config: RenderConfig, wardrobe: Wardrobe) -> None:
    """Add a person who is not in the benchmark, about a metre away in any direction."""
    angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.55, 1.1)
    heading, phase = rng.uniform(0, 2 * np.pi, 2)
    pose = Pose(distance * np.cos(angle), distance * np.sin(angle), heading, phase, 0.8)
    scene.add_person(draw_person(rng, rng, 0, config, wardrobe), pose)


class _Directions(NamedTuple):
    """Unit vectors [3] from the person: to the camera, horizontally towards it, and horizontally to one side."""

    to_camera: np.ndarray
    near: np.ndarray
    across: np.ndarray


def add_obstacle(scene: Scene, camera: Pinhole, view: View, rng: np.random.Generator) -> None:
    """Add one obstacle between the camera and the person."""
    near = -np.array([*camera.forward[:2], 0]) / np.hypot(*camera.forward[:2])
    across = np.array([-near[1], near[0], 0]) * one_of(rng, (-1, 1))
    one_of(rng, _OBSTACLES[view])(scene, _Directions(-camera.forward, near, across), rng)


def _post(scene: Scene, way: _Directions, rng: np.random.Generator) -> None:
    foot = rng.uniform(0.4, 0.8) * way.near + rng.uniform(0.0, 0.28) * way.across
    radius = rng.uniform(0.04, 0.09)
    scene.add_part(foot, foot + rng.uniform(2.6, 4.5) * UP, radius, radius, CONCRETE)


def _low_wall(scene: Scene, way: _Directions, rng: np.random.Generator) -> None:
    middle, height = rng.uniform(0.5, 0.9) * way.near, rng.uniform(0.45, 0.85)
    along = way.across + 0.2 * rng.normal() * way.near
    thin = squash(np.cross(along, UP), 0.25)
    fabric = one_of(rng, (LEAVES, CONCRETE))
    scene.add_part(middle - 4 * along, middle + 4 * along, height, height, fabric, squash=thin)


def _car(scene: Scene, way: _Directions, rng: np.random.Generator) -> None:
    """A parked car, whose bonnet is in the way."""
    middle = rng.uniform(1.1, 1.4) * way.near + rng.uniform(1.2, 2.1) * way.across
    metal, glass, rubber = Fabric(one_of(rng, list(CLOTHES.values()))), Fabric((0.13, 0.15, 0.18)), Fabric((0.06,) * 3)

    def lie(height: float, back: float, front: float, radius: float, flatness: float, fabric: Fabric) -> None:
        start, end = middle + height * UP + back * way.across, middle + height * UP + front * way.across
        boxy = squash(way.across, 0.35) @ squash(UP, flatness)
        scene.add_part(start, end, radius, radius, fabric, squash=boxy)

    lie(0.56, -1.7, 1.7, 0.75, 0.42, metal)
    lie(0.88, -0.8, 0.8, 0.62, 0.50, glass)
    lie(1.14, -0.6, 0.7, 0.52, 0.20, metal)
    for end in (-1.2, 1.2):
        hub = middle + end * way.across + 0.33 * UP
        scene.add_part(hub + 0.6 * way.near, hub + 0.75 * way.near, 0.33, 0.33, rubber, squash=squash(way.near, 0.4))


def _tree(scene: Scene, way: _Directions, rng: np.random.Generator) -> None:
    crown = PERSON_MIDDLE * UP + 2.2 * way.to_camera + rng.uniform(0.15, 0.6) * way.across
    for _ in range(6):
        leaf, radius = crown + rng.normal(0, 0.17, 3), rng.uniform(0.12, 0.22)
        scene.add_part(leaf, leaf + 0.1 * rng.normal(size=3), radius, radius, LEAVES)


_OBSTACLES: dict[View, tuple[Callable[..., None], ...]] = {
    View.AERIAL: (_post, _tree),
    View.GROUND: (_post, _low_wall, _car, _tree),
    View.WEARABLE: (_post, _low_wall, _tree),
}
