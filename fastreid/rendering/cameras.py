"""The cameras of the rendered benchmark: position, light and colour response."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from fastreid.structures import View

from .textures import RGB, Fabric

PERSON_MIDDLE = 0.9
"""Height in metres that every camera aims at."""


@dataclass(frozen=True)
class Camera:
    """One camera. Angles in degrees, altitude in metres.

    Attributes:
        view: its view.
        altitude: height above the ground.
        pitch: angle below the horizon.
        focal: focal length in pixels; with altitude and pitch it determines the size of the crops.
        sun_azimuth: 0 is in front of a ground camera (back light), 180 behind it.
        sun_height: angle of the sun above the horizon.
        light: linear colour of sunlight; skylight has half the tint.
        sun: share of the light that comes from the sun; the rest comes from the whole sky.
        gain: factor of each colour; 1 is neutral.
        gamma: exponent of the colour response; 1 is neutral.
        saturation: factor of the saturation; 1 is neutral.
        ground: fabric below the people.
        wall: fabric behind the people, for ground cameras only.
        blur: standard deviation of the blur of its lens, as a share of the image's height.
        noise: factor of the noise; 1 is neutral.
    """

    view: View
    altitude: float
    pitch: float
    focal: float
    sun_azimuth: float
    sun_height: float
    light: RGB
    sun: float
    gain: RGB
    gamma: float
    saturation: float
    ground: Fabric
    wall: Fabric | None = None
    blur: float = 0.0
    noise: float = 1.0

    @property
    def distance(self) -> float:
        """Metres from the camera to the middle of a person in the centre of the image."""
        return (self.altitude - PERSON_MIDDLE) / np.sin(np.radians(self.pitch))


AIR, STREET = View.AERIAL, View.GROUND

NOON, MILD, WARM = (1.0, 1.0, 1.0), (1.05, 1.0, 0.92), (1.12, 0.98, 0.80)
DUSK, COOL = (1.20, 0.93, 0.74), (0.88, 0.98, 1.12)

ASPHALT = Fabric((0.30, 0.30, 0.32), (0.48, 0.48, 0.49), "asphalt")
PALE_ASPHALT = Fabric((0.50, 0.49, 0.47), (0.64, 0.63, 0.60), "asphalt")
EARTH = Fabric((0.46, 0.37, 0.27), (0.62, 0.52, 0.39), "asphalt")
GRASS = Fabric((0.22, 0.34, 0.13), (0.44, 0.54, 0.24), "grass")
PAVING = Fabric((0.62, 0.60, 0.56), (0.40, 0.38, 0.36), "paving")
RED_PAVING = Fabric((0.56, 0.38, 0.32), (0.38, 0.27, 0.24), "paving")
CROSSING = Fabric((0.27, 0.27, 0.28), (0.82, 0.82, 0.80), "crossing")
BRICK = Fabric((0.55, 0.31, 0.24), (0.70, 0.66, 0.60), "bricks")
BLOCKS = Fabric((0.55, 0.56, 0.57), (0.40, 0.40, 0.41), "bricks")
PLASTER = Fabric((0.80, 0.75, 0.64), (0.66, 0.61, 0.52), "plaster")
CONCRETE = Fabric((0.52, 0.52, 0.50), (0.66, 0.66, 0.63), "plaster")
LEAVES = Fabric((0.10, 0.18, 0.07), (0.36, 0.48, 0.20), "leaves")
OFFICE = Fabric((0.62, 0.61, 0.58), (0.22, 0.28, 0.34), "windows")
PLANKS = Fabric((0.44, 0.31, 0.20), (0.20, 0.14, 0.09), "planks")

# Cam1-5 are aerial and Cam6-13 stand on the ground, as in CARGO.
# fmt: off
CARGO_CAMERAS: dict[int, Camera] = {
    # view, altitude, pitch, focal, sun (azimuth, height, light, share), gain, gamma, saturation, …
    1: Camera(AIR, 9, 42, 700, 40, 50, NOON, .55, (1, 1, 1), 1, 1, PAVING),
    2: Camera(AIR, 14, 52, 850, 130, 42, WARM, .65, (1.08, 1, .92), .92, 1.1, ASPHALT),
    3: Camera(AIR, 20, 60, 1100, 220, 60, COOL, .35, (.94, 1, 1.08), 1.12, .85, GRASS),
    4: Camera(AIR, 28, 50, 1300, 300, 38, MILD, .6, (1.1, 1.04, 1.02), .88, .9, CROSSING),
    5: Camera(AIR, 40, 68, 1450, 75, 55, NOON, .5, (.84, .88, .9), 1.1, 1, RED_PAVING),
    6: Camera(STREET, 2.6, 13, 440, 20, 40, NOON, .5, (1, 1, 1), 1, 1, PALE_ASPHALT, OFFICE),
    7: Camera(STREET, 3.2, 18, 440, 100, 35, DUSK, .6, (1.06, .98, .9), 1.05, 1.05,
              RED_PAVING, BRICK),
    8: Camera(STREET, 2.0, 8, 470, 200, 55, COOL, .25, (.94, 1, 1.08), 1.08, .82,
              ASPHALT, CONCRETE),
    9: Camera(STREET, 1.7, 5, 580, 250, 48, MILD, .55, (1.12, 1.1, 1.04), .9, 1.08, GRASS, LEAVES),
    10: Camera(STREET, 3.6, 20, 480, 310, 62, NOON, .45, (.8, .82, .84), 1.12, .92, PAVING, BLOCKS),
    11: Camera(STREET, 2.4, 11, 410, 150, 30, WARM, .7, (1.1, 1.02, .94), .92, 1.12, EARTH, PLANKS),
    12: Camera(STREET, 4.2, 24, 560, 60, 50, COOL, .4, (.9, 1.02, 1), 1, .9, CROSSING, PLASTER),
    13: Camera(STREET, 1.9, 7, 480, 350, 44, MILD, .5, (1.02, .96, 1.06), 1, .78,
               PALE_ASPHALT, BRICK),
}
# fmt: on

WEARABLE_CAMERA = Camera(
    View.WEARABLE, 1.65, 5, 420, 120, 45, MILD, 0.5, (1.04, 1.02, 0.94), 0.95, 1.12, PAVING, PLANKS
)
"""Smart glasses, eight metres away from the person."""


def sibling(number: int, turn: int) -> Camera:
    """A variant of CARGO's camera `number`, with another sun, colour and height for each `turn` but 0."""
    camera = CARGO_CAMERAS[number]
    return replace(
        camera,
        altitude=camera.altitude * 1.15**turn,
        sun_azimuth=(camera.sun_azimuth + 80 * turn) % 360,
        gamma=camera.gamma * 1.08**turn,
        gain=cast(RGB, camera.gain[turn:] + camera.gain[:turn]),
    )
