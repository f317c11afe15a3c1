"""Render re-identification benchmarks: 3-D people seen from the air and the ground, in any benchmark's layout."""

from .config import RenderConfig
from .domains import DOMAINS
from .layouts import LAYOUTS
from .people import Person
from .plan import RenderRequest
from .render import render_person
from .write import RenderSummary, render_benchmark

__all__ = [
    "DOMAINS",
    "LAYOUTS",
    "Person",
    "RenderConfig",
    "RenderRequest",
    "RenderSummary",
    "render_benchmark",
    "render_person",
]
