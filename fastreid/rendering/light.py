"""The light at a camera, and the colours of people, ground and wall in it."""

from __future__ import annotations

import numpy as np

from .cameras import Camera
from .config import RenderConfig
from .raycast import F, Part, Pinhole, cast, dot, normals
from .scene import Scene
from .textures import paint


class Light:
    """Sun and sky at a camera: direction to the sun [3] and two linear colours [3].

    Args:
        camera: the camera.
        config: parameters of the benchmark.
    """

    def __init__(self, camera: Camera, config: RenderConfig) -> None:
        azimuth, height = np.radians([camera.sun_azimuth, camera.sun_height])
        level = np.cos(height)
        self.to_sun = np.array([np.cos(azimuth) * level, np.sin(azimuth) * level, np.sin(height)], F)
        tint = np.asarray(camera.light, F) ** F(config.colour_response)
        self.sun = F(1.15 * camera.sun) * tint
        self.sky = F(1 - 0.75 * camera.sun) * np.sqrt(tint)

    def on(self, normal: np.ndarray, height: np.ndarray) -> np.ndarray:
        """Light [N, 3] on surfaces with normals [N, 3] at heights [N] in metres."""
        from_sun = np.clip(F(0.15) + F(0.85) * dot(normal, self.to_sun), 0, 1)
        near_ground = np.clip(F(0.72) + F(0.25) * height, 0, 1)  # the ground hides a part of the sky
        from_sky = (F(0.72) + F(0.28) * normal[:, 2]) * near_ground
        return from_sun[:, None] * self.sun + from_sky[:, None] * self.sky


def light_up_parts(scene: Scene, camera: Pinhole, light: Light, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Linear colours and coverage [len(y), len(x), 4] of the scene's parts on a pixel grid."""
    parts = scene.parts
    hits = cast(parts, camera, x, y)
    rows, columns = np.nonzero(hits.part >= 0)
    part, along = hits.part[rows, columns], hits.along[rows, columns]
    start, direction = camera.rays(x[columns], y[rows])
    points = start + hits.t[rows, columns, None] * direction

    cut = np.array([p.cut for p in parts], F)
    above, below = np.array([(p.fabric, p.below) for p in parts]).T
    worn = np.where(along <= cut[part], above[part], below[part])
    u, v = _pattern_coordinates(parts, part, points)
    colours = light.on(normals(parts, part, along, points), points[:, 2])
    for number, fabric in enumerate(scene.fabrics):
        wears = np.flatnonzero(worn == number)
        if wears.size:
            colours[wears] *= paint(fabric, u[wears], v[wears])
    picture = np.zeros((len(y), len(x), 4), F)
    picture[rows, columns, :3], picture[rows, columns, 3] = colours, 1
    return picture


def _pattern_coordinates(parts: list[Part], part: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Metres around and along the part [N], for `paint`."""
    origin, up, front = np.array([p.frame for p in parts], F).swapaxes(0, 1)
    side = np.cross(up, front)
    radius = np.array([(p.r0 + p.r1) / 2 for p in parts], F)
    offset = points - origin[part]
    angle = np.arctan2(dot(offset, side[part]), dot(offset, front[part]))
    return angle * radius[part], dot(offset, up[part])


def light_up_surroundings(
    scene: Scene,
    camera: Camera,
    pinhole: Pinhole,
    light: Light,
    x: np.ndarray,
    y: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Linear colours [len(y), len(x), 3] of the ground, with the scene's shadows, and the wall."""
    start, direction = pinhole.rays(*(grid.ravel() for grid in np.meshgrid(x, y)))
    place, turn, wall_distance = rng.uniform(3, 60, 2), rng.uniform(0, np.pi), rng.uniform(2, 9)
    with np.errstate(divide="ignore"):
        reach = np.where(direction[:, 2] < 0, -start[:, 2] / direction[:, 2], F(np.inf))
    is_ground = np.ones(len(reach), bool)
    colours = np.empty_like(start)
    if camera.wall is not None:
        back = (pinhole.forward[:2] / np.hypot(*pinhole.forward[:2])).astype(F)
        to_wall = (F(wall_distance) - dot(start[:, :2], back)) / dot(direction[:, :2], back)
        is_ground = reach < to_wall
        wall = (start + to_wall[:, None] * direction)[~is_ground]
        u = wall[:, 0] * back[1] - wall[:, 1] * back[0] + F(place[0])
        towards_us = np.array([[-back[0], -back[1], 0]], F)
        colours[~is_ground] = paint(camera.wall, u, wall[:, 2]) * light.on(towards_us, np.array([1.0], F))

    ground = (start + reach[:, None] * direction)[is_ground]
    cos, sin, gx, gy = F(np.cos(turn)), F(np.sin(turn)), ground[:, 0], ground[:, 1]
    u, v = cos * gx - sin * gy + F(place[0]), sin * gx + cos * gy + F(place[1])
    shadow = shadows(scene.parts, light.to_sun, gx, gy)[:, None]
    sun, sky = light.sun * light.to_sun[2], light.sky
    colours[is_ground] = paint(camera.ground, u, v) * ((1 - shadow) * sun + (1 - F(0.35) * shadow) * sky)
    return colours.reshape(len(y), len(x), 3)


def shadows(parts: list[Part], to_sun: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Shadows of the parts on the ground at x, y [N]: 0 is none, 1 is full shadow.

    The shadow of a capsule is approximated by that of its axis, widened by its radius; the edge is
    softer for higher parts.
    """
    slant, dark = to_sun[:2] / to_sun[2], np.zeros_like(x)
    for part in parts:
        radius = (part.r0 + part.r1) / 2
        if radius < 0.045:  # hands, straps
            continue
        a, b = ((p[:2] - slant * p[2]).astype(F) for p in (part.start, part.end))
        axis, ax, ay = b - a, x - a[0], y - a[1]
        along = np.clip((ax * axis[0] + ay * axis[1]) / (axis @ axis + F(1e-6)), 0, 1)
        gap = np.hypot(ax - along * axis[0], ay - along * axis[1])
        soft = F(0.04 + 0.06 * max(part.start[2], part.end[2]))
        dark = np.maximum(dark, np.clip((F(radius) - gap) / soft + F(0.5), 0, 1))
    return dark
