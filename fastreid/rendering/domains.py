"""The domains of the rendered benchmarks: the look of a place, its cameras and the clothes of its season, as rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from fastreid.utils.suggest import explain_choice

from .cameras import BRICK, CROSSING, EARTH, GRASS, LEAVES, PALE_ASPHALT, PAVING, PLANKS, PLASTER, RED_PAVING, Camera
from .people import CLOTHES, Wardrobe
from .textures import RGB, Fabric

PLAIN = "plain"
"""The domain of a benchmark that names none."""


@dataclass(frozen=True)
class Domain:
    """Changes to the cameras of a layout, and what people wear. Factors multiply the values of each `Camera`.

    Attributes:
        about: what the place is.
        height: factor of the height of the cameras.
        tilt: degrees that are added to their pitch.
        size: factor of the size of people in pixels. The focal length follows from it and from the distance, so a
            camera that is far away has a long lens.
        sun_height: factor of the angle of the sun, or of the lamps, above the horizon.
        sun: factor of the share of the light that comes from there.
        light: factor of each colour of the light.
        gain: factor of each colour in the response of the cameras.
        gamma: factor of the exponent of the response.
        saturation: factor of the saturation.
        blur: standard deviation of the blur, as a share of the height of the image.
        noise: factor of the noise.
        grounds: fabrics of the ground, used by the cameras in turn; empty for their own.
        walls: the same for what is behind the people.
        wardrobe: what people wear.
    """

    about: str
    height: float = 1.0
    tilt: float = 0.0
    size: float = 1.0
    sun_height: float = 1.0
    sun: float = 1.0
    light: RGB = (1.0, 1.0, 1.0)
    gain: RGB = (1.0, 1.0, 1.0)
    gamma: float = 1.0
    saturation: float = 1.0
    blur: float = 0.0
    noise: float = 1.0
    grounds: Sequence[Fabric] = ()
    walls: Sequence[Fabric] = ()
    wardrobe: Wardrobe = field(default_factory=Wardrobe)

    def cameras(self, cameras: Mapping[int, Camera]) -> dict[int, Camera]:
        """The cameras of a layout as they look in this domain, by their numbers."""
        return {number: self._camera(camera, turn) for turn, (number, camera) in enumerate(cameras.items())}

    def _camera(self, camera: Camera, turn: int) -> Camera:
        moved = replace(camera, altitude=camera.altitude * self.height, pitch=camera.pitch + self.tilt)
        return replace(
            moved,
            focal=float(camera.focal * self.size * (moved.distance / camera.distance)),
            sun_height=min(camera.sun_height * self.sun_height, 85),
            sun=min(camera.sun * self.sun, 0.9),
            light=_product(camera.light, self.light),
            gain=_product(camera.gain, self.gain),
            gamma=camera.gamma * self.gamma,
            saturation=camera.saturation * self.saturation,
            blur=camera.blur + self.blur,
            noise=camera.noise * self.noise,
            ground=self.grounds[turn % len(self.grounds)] if self.grounds else camera.ground,
            wall=self.walls[turn % len(self.walls)] if self.walls and camera.wall else camera.wall,
        )


def _product(a: RGB, b: RGB) -> RGB:
    return cast(RGB, tuple(x * y for x, y in zip(a, b, strict=True)))


TERRAZZO = Fabric((0.62, 0.63, 0.62), (0.44, 0.45, 0.46), "asphalt")
GREY_TILES = Fabric((0.52, 0.54, 0.55), (0.34, 0.35, 0.36), "tiles")
WHITE_TILES = Fabric((0.80, 0.83, 0.80), (0.52, 0.56, 0.55), "tiles")
STEEL = Fabric((0.56, 0.60, 0.62), (0.30, 0.33, 0.35), "panels")
BLUE_PANELS = Fabric((0.25, 0.36, 0.48), (0.14, 0.20, 0.28), "panels")
COBBLES = Fabric((0.50, 0.45, 0.40), (0.27, 0.23, 0.20), "cobbles")
RED_AWNINGS = Fabric((0.86, 0.80, 0.68), (0.66, 0.16, 0.12), "awnings")
GREEN_AWNINGS = Fabric((0.90, 0.84, 0.62), (0.16, 0.40, 0.22), "awnings")
OCHRE = Fabric((0.78, 0.60, 0.36), (0.62, 0.44, 0.25), "plaster")
WET_ASPHALT = Fabric((0.10, 0.10, 0.13), (0.32, 0.32, 0.36), "asphalt")
DARK_PAVING = Fabric((0.30, 0.29, 0.30), (0.14, 0.13, 0.14), "paving")
SHOPFRONTS = Fabric((0.12, 0.12, 0.14), (1.00, 0.86, 0.55), "shopfronts")
BLUE_SHOPFRONTS = Fabric((0.10, 0.09, 0.10), (0.55, 0.75, 1.00), "shopfronts")
SHUTTERS = Fabric((0.28, 0.28, 0.30), (0.12, 0.12, 0.13), "panels")

SUMMER = Wardrobe(
    colours=(
        (0.93, 0.93, 0.90),
        (0.48, 0.74, 0.92),
        (0.94, 0.48, 0.38),
        (0.60, 0.86, 0.68),
        (0.95, 0.86, 0.38),
        (0.93, 0.62, 0.74),
        (0.24, 0.38, 0.74),
        (0.84, 0.76, 0.60),
        (0.72, 0.62, 0.88),
        (0.80, 0.14, 0.18),
        (0.14, 0.14, 0.16),
        (0.20, 0.52, 0.34),
    ),
    sleeves=(0.0, 0.3, 0.5, 0.7),
    legwear=("shorts", "shorts", "skirt", "cropped", "trousers"),
    hats=("none", "none", "none", "cap", "brim"),
)
WINTER = Wardrobe(
    colours=(
        (0.08, 0.08, 0.09),
        (0.14, 0.17, 0.28),
        (0.32, 0.33, 0.35),
        (0.30, 0.20, 0.14),
        (0.36, 0.12, 0.16),
        (0.20, 0.25, 0.18),
        (0.60, 0.48, 0.34),
        (0.52, 0.54, 0.57),
        (0.20, 0.32, 0.42),
        (0.78, 0.76, 0.72),
        (0.32, 0.30, 0.18),
        (0.64, 0.22, 0.18),
    ),
    upper_patterns=("plain", "open", "yoke", "halves", "logo", "side", "checks"),
    sleeves=(2.0,),
    legwear=("trousers", "trousers", "trousers", "skirt"),
    hats=("none", "none", "beanie", "beanie"),
    coats=(0.06, 0.12, 0.20, 0.28),
)
AUTUMN = Wardrobe(
    colours=(
        (0.80, 0.60, 0.16),
        (0.62, 0.26, 0.12),
        (0.10, 0.38, 0.40),
        (0.40, 0.18, 0.34),
        (0.26, 0.34, 0.50),
        (0.88, 0.82, 0.68),
        (0.18, 0.30, 0.18),
        (0.66, 0.50, 0.34),
        (0.10, 0.09, 0.10),
        (0.36, 0.24, 0.15),
        (0.70, 0.14, 0.16),
        (0.50, 0.50, 0.48),
    ),
    sleeves=(1.5, 2.0, 2.0),
    legwear=("trousers", "trousers", "cropped", "skirt"),
    coats=(0.0, 0.0, 0.06, 0.14),
)
EVENING = Wardrobe(
    colours=tuple(CLOTHES.values()),
    sleeves=(0.7, 2.0, 2.0),
    legwear=("trousers", "trousers", "skirt"),
    hats=("none", "none", "cap", "beanie"),
    coats=(0.0, 0.05, 0.12),
)

DOMAINS: dict[str, Domain] = {
    PLAIN: Domain("streets of all kinds by day"),
    "campus_summer": Domain(
        "lawns and paths at noon, seen from high poles; summer clothes",
        height=1.3,
        tilt=5,
        sun_height=1.15,
        sun=1.25,
        light=(1.04, 1.0, 0.94),
        gain=(1.1, 1.1, 1.04),
        gamma=0.95,
        saturation=1.15,
        grounds=(GRASS, PAVING, PALE_ASPHALT, RED_PAVING),
        walls=(LEAVES, BRICK, PLASTER),
        wardrobe=SUMMER,
    ),
    "station_winter": Domain(
        "the forecourt of a station under a grey sky, steep and blurred; coats and hats",
        height=1.1,
        tilt=8,
        size=0.7,
        sun_height=1.4,
        sun=0.35,
        light=(0.86, 1.02, 1.0),
        gain=(0.82, 0.9, 0.92),
        gamma=0.9,
        saturation=0.6,
        blur=0.008,
        noise=1.3,
        grounds=(TERRAZZO, GREY_TILES, STEEL),
        walls=(STEEL, WHITE_TILES, BLUE_PANELS),
        wardrobe=WINTER,
    ),
    "market_evening": Domain(
        "market stalls in low, warm sunlight, at eye level; autumn clothes",
        height=0.85,
        tilt=-2,
        size=0.85,
        sun_height=0.3,
        sun=1.2,
        light=(1.25, 0.93, 0.64),
        gain=(1.08, 0.98, 0.9),
        saturation=1.1,
        blur=0.004,
        grounds=(COBBLES, EARTH, RED_PAVING),
        walls=(RED_AWNINGS, GREEN_AWNINGS, OCHRE, PLANKS),
        wardrobe=AUTUMN,
    ),
    "night_street": Domain(
        "wet streets under street lamps, dark and noisy; clothes of an evening",
        size=0.8,
        sun_height=1.3,
        sun=1.1,
        light=(1.2, 0.9, 0.58),
        gain=(0.42, 0.40, 0.46),
        gamma=1.05,
        saturation=0.75,
        blur=0.005,
        noise=2.0,
        grounds=(WET_ASPHALT, DARK_PAVING, CROSSING),
        walls=(SHOPFRONTS, SHUTTERS, BLUE_SHOPFRONTS),
        wardrobe=EVENING,
    ),
}


def get_domain(name: str) -> Domain:
    """The domain `name`.

    Raises:
        ValueError: there is none; names the near matches.
    """
    if name not in DOMAINS:
        raise ValueError(explain_choice("domain", name, DOMAINS))
    return DOMAINS[name]
