"""Parameters of the rendered benchmark, which set how hard it is to distinguish its people."""

from __future__ import annotations

from dataclasses import dataclass, fields

_LIMITS = {
    "palette_size": (1, 12),
    "lookalike_group": (1, 6),
    "cameras_per_view": (1, 99),
    "colour_response": (0, 2),
    "jpeg_quality_low": (1, 95),
    "jpeg_quality_high": (1, 95),
    "resolution": (0.25, 4),
    "pitch_jitter": (0, 10),
}


@dataclass(frozen=True)
class RenderConfig:
    """How hard the benchmark is; probabilities, shares and deviations are in 0..1 unless stated otherwise.

    Raises:
        ValueError: a parameter is outside its limits.
    """

    palette_size: int = 8
    """Clothing colours in use (1..12); fewer mean more people dressed alike by chance."""
    lookalike_group: int = 4
    """People who share build and clothing colours but not patterns and belongings (1..6)."""
    lookalike_height_spread: float = 0.03
    """Standard deviation in metres of the heights inside a look-alike group."""
    cameras_per_view: int = 3
    """Cameras of each view that see one person (at least 1), alternately."""
    occlusion: float = 0.30
    """Probability that a post, wall, hedge, car or tree hides a part of the person."""
    bystander: float = 0.20
    """Probability that another, unlabelled person stands close by, in front or behind."""
    crop_error: float = 0.07
    """Standard deviation of the box's shift and of the logarithm of its scale, in box sizes."""
    colour_response: float = 1.0
    """Strength of each camera's gain, gamma, saturation and light colour (0 = all alike, 2)."""
    exposure_jitter: float = 0.15
    """Standard deviation, in natural logarithm, of the exposure from image to image."""
    motion_blur: float = 0.03
    """Longest motion blur as a share of the box's height."""
    noise: float = 0.02
    """Standard deviation of the sensor's noise in units of full white."""
    jpeg_quality_low: int = 55
    """Lowest JPEG quality (1..95)."""
    jpeg_quality_high: int = 90
    """Highest JPEG quality (1..95)."""
    resolution: float = 1.0
    """Multiplies all focal lengths, so the pixels on a person's height (0.25..4)."""
    pitch_jitter: float = 5.0
    """Standard deviation in degrees (0..10) of the pitch under which a camera sees a person."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value, (low, high) = getattr(self, field.name), _LIMITS.get(field.name, (0, 1))
            if not low <= value <= high:
                raise ValueError(f"{field.name} is {value}; it must lie in {low}..{high}")
        if self.jpeg_quality_low > self.jpeg_quality_high:
            raise ValueError(
                f"jpeg_quality_low is {self.jpeg_quality_low}, above "
                f"jpeg_quality_high {self.jpeg_quality_high}; swap them"
            )
