"""Filters of written pictures, and the stage that applies them."""

from . import blur, near_copy, reid, several_people
from .base import FILTER_REGISTRY, FilterError, PictureFilter, Source, Verdict, WrittenPerson
from .build import build_filters, build_rounds, model_files
from .sources import RealImages
from .stage import FilterStage
from .summary import FilterSummary, Rounds

__all__ = [
    "FILTER_REGISTRY",
    "FilterError",
    "FilterStage",
    "FilterSummary",
    "PictureFilter",
    "RealImages",
    "Rounds",
    "Source",
    "Verdict",
    "WrittenPerson",
    "blur",
    "build_filters",
    "build_rounds",
    "model_files",
    "near_copy",
    "reid",
    "several_people",
]
