"""Render one detector crop of one person."""

from __future__ import annotations

import numpy as np

from fastreid.structures import View

from .body import Pose
from .cameras import PERSON_MIDDLE, Camera
from .config import RenderConfig
from .light import Light, light_up_parts, light_up_surroundings
from .people import Person, Wardrobe
from .photo import photograph
from .raycast import F, Pinhole
from .scene import Scene, add_obstacle, add_passer_by

_STEEPEST = {View.AERIAL: (35, 80), View.GROUND: (2, 30), View.WEARABLE: (2, 15)}
"""Limits of the pitch in degrees."""


def aim(camera: Camera, rng: np.random.Generator, config: RenderConfig) -> Pinhole:
    """Draw a pinhole camera that sees a person at the origin; a drone may be in any direction."""
    aerial = camera.view == View.AERIAL
    pitch = np.clip(rng.normal(camera.pitch, config.pitch_jitter), *_STEEPEST[camera.view])
    azimuth = rng.uniform(-np.pi, np.pi) * (1 if aerial else 0.1)
    roll = np.radians(rng.normal(0, 6 if aerial else 1.5))
    pitch = np.radians(pitch)
    forward = np.array([np.cos(azimuth) * np.cos(pitch), np.sin(azimuth) * np.cos(pitch), -np.sin(pitch)])
    level = np.array([np.sin(azimuth), -np.cos(azimuth), 0])
    right = np.cos(roll) * level + np.sin(roll) * np.cross(forward, level)
    return Pinhole(
        target=np.array([0, 0, PERSON_MIDDLE]),
        right=right,
        down=np.cross(forward, right),
        forward=forward,
        depth=camera.distance * rng.uniform(0.85, 1.2),
        focal=camera.focal * config.resolution,
    )


def view_of(camera: Camera, rng: np.random.Generator, config: RenderConfig) -> tuple[Pinhole, Pose]:
    """Draw what an image shows: the pinhole camera, and the pose of the person at the origin."""
    pinhole = aim(camera, rng, config)
    heading, phase = rng.uniform(0, 2 * np.pi, 2)
    return pinhole, Pose(0, 0, heading, phase, stride=rng.uniform(0.35, 1.05))


def facing(pinhole: Pinhole, heading: float) -> float:
    """Cosine of the horizontal angle between a person's heading (radians) and the direction to the camera."""
    x, y = -pinhole.forward[:2] / np.linalg.norm(pinhole.forward[:2])
    return float(x * np.cos(heading) + y * np.sin(heading))


def crop(boxes: np.ndarray, rng: np.random.Generator, config: RenderConfig) -> tuple[np.ndarray, np.ndarray]:
    """Pixel columns x [W] and rows y [H] of an imperfect box around the part boxes [P, 4]."""
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    size = np.maximum(high - low, 0.33 * (high - low)[::-1])
    centre = (low + high) / 2 + size * rng.normal(0, config.crop_error, 2)
    size = np.rint(1.08 * size * np.exp(rng.normal(0, config.crop_error, 2)))
    return tuple((c - s / 2 + np.arange(s) + 0.5).astype(F) for c, s in zip(centre, np.maximum(size, 12), strict=True))


def _halves(pixels: np.ndarray) -> np.ndarray:
    """Two positions inside each pixel [N] -> [2 N]."""
    return (pixels[:, None] + np.array([-0.25, 0.25], F)).ravel()


def render_person(
    person: Person,
    camera: Camera,
    rng: np.random.Generator,
    config: RenderConfig | None = None,
    wardrobe: Wardrobe | None = None,
) -> np.ndarray:
    """One crop of `person` under `camera`, uint8 [H, W, 3].

    Args:
        person: the person.
        camera: the camera.
        rng: generator of all other properties of the image.
        config: parameters of the benchmark.
        wardrobe: what passers-by wear; `Wardrobe()` by default.
    """
    config, wardrobe = config or RenderConfig(), wardrobe or Wardrobe()
    scene, light = Scene(), Light(camera, config)
    pinhole, pose = view_of(camera, rng, config)
    scene.add_person(person, pose)
    x, y = crop(pinhole.boxes(scene.parts), rng, config)
    if rng.random() < config.bystander:
        add_passer_by(scene, rng, config, wardrobe)
    if rng.random() < config.occlusion:
        add_obstacle(scene, pinhole, camera.view, rng)
    # Four rays per pixel for the parts, whose edges are visible, and one for the surroundings.
    fine = light_up_parts(scene, pinhole, light, _halves(x), _halves(y))
    fine = fine[::2] + fine[1::2]
    parts = (fine[:, ::2] + fine[:, 1::2]) / 4
    surroundings = light_up_surroundings(scene, camera, pinhole, light, x, y, rng)
    return photograph(parts[..., :3] + (1 - parts[..., 3:]) * surroundings, camera, rng, config)
