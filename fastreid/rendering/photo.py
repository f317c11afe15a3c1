"""From light to the image of a camera: motion blur, exposure, colour response, noise."""

from __future__ import annotations

import numpy as np

from .cameras import Camera
from .config import RenderConfig
from .raycast import F, dot


def motion_blur(picture: np.ndarray, dx: float, dy: float) -> np.ndarray:
    """Mean of `picture` [H, W, 3] along a straight motion by (dx, dy) pixels; borders are repeated."""
    steps = int(np.ceil(max(abs(dx), abs(dy))))
    rows, columns = (np.arange(size) for size in picture.shape[:2])
    total = np.zeros_like(picture)
    for share in np.linspace(-0.5, 0.5, steps + 1):
        moved = picture.take(rows + round(share * dy), 0, mode="clip")
        total += moved.take(columns + round(share * dx), 1, mode="clip")
    return total / F(steps + 1)


def defocus(picture: np.ndarray, sigma: float) -> np.ndarray:
    """`picture` [H, W, 3] under a Gaussian blur of `sigma` pixels; borders are repeated."""
    reach = int(np.ceil(2.5 * sigma))
    shifts = range(-reach, reach + 1)
    weights = np.exp([-0.5 * (shift / sigma) ** 2 for shift in shifts])
    for axis in (0, 1):
        indices = np.arange(picture.shape[axis])
        moved = (picture.take(indices + shift, axis, mode="clip") for shift in shifts)
        picture = np.sum([F(w) * p for w, p in zip(weights / weights.sum(), moved, strict=True)], axis=0)
    return picture


def photograph(light: np.ndarray, camera: Camera, rng: np.random.Generator, config: RenderConfig) -> np.ndarray:
    """The image, uint8 [H, W, 3], of linear light [H, W, 3]."""
    strength = config.colour_response
    length, angle = config.motion_blur * len(light) * rng.random(), rng.uniform(0, np.pi)
    picture = motion_blur(light, length * np.cos(angle), length * np.sin(angle))
    if camera.blur:
        picture = defocus(picture, camera.blur * len(light))
    exposure = np.exp(rng.normal(0, config.exposure_jitter))
    picture *= np.asarray(camera.gain, F) ** F(strength) * F(exposure)
    picture **= F(camera.gamma**strength / 2.2)
    grey = dot(picture, np.array([0.299, 0.587, 0.114], F))[..., None]
    picture = grey + F(camera.saturation**strength) * (picture - grey)
    picture += F(config.noise * camera.noise) * rng.standard_normal(picture.shape, F)
    return (np.clip(picture, 0, 1) * 255 + F(0.5)).astype(np.uint8)
