"""Renders an aerial-ground re-identification benchmark: 3-D people seen by 13 cameras."""

from .config import RenderConfig
from .layouts import LAYOUTS
from .people import Person
from .plan import RenderRequest
from .render import render_person
from .write import RenderSummary, render_benchmark

__all__ = [
    "LAYOUTS",
    "Person",
    "RenderConfig",
    "RenderRequest",
    "RenderSummary",
    "render_benchmark",
    "render_person",
]
