"""How rendered benchmarks name their files: one row for each benchmark whose layout can be written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from fastreid.utils.suggest import explain_choice

from .cameras import CARGO_CAMERAS, Camera


class Shot(NamedTuple):
    """One image to take: `index` counts a person's images from 0, `number` all images of the benchmark from 1."""

    split: str
    person: int
    camera: int
    index: int
    number: int


@dataclass(frozen=True)
class Layout:
    """A benchmark's cameras by their number, and the path of a shot's file below the benchmark's folder."""

    cameras: Mapping[int, Camera]
    path: Callable[[Shot], str]

    def views(self) -> list[list[int]]:
        """Camera numbers, grouped by view in the order of the views."""
        views = sorted({camera.view for camera in self.cameras.values()})
        return [[number for number, camera in self.cameras.items() if camera.view == view] for view in views]


def _cargo_path(shot: Shot) -> str:
    return f"{shot.split}/Cam{shot.camera}/Cam{shot.camera}_day_{shot.person}_{shot.number}.jpg"


LAYOUTS: dict[str, Layout] = {
    "CARGO": Layout(cameras=CARGO_CAMERAS, path=_cargo_path),
}


def get_layout(name: str) -> Layout:
    """The layout of benchmark `name`; ValueError with the near matches if none is written."""
    if name not in LAYOUTS:
        raise ValueError(explain_choice("rendered benchmark", name, LAYOUTS))
    return LAYOUTS[name]
