"""What it takes to write a rendered benchmark in another's form: cameras, file names, list files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .cameras import Camera, sibling


class Shot(NamedTuple):
    """One image to take: `index` counts a person's images from 0, `number` all images of the benchmark from 1."""

    split: str  # "train", "query", "gallery", or "distractor": a person without a name
    person: int
    camera: int
    index: int
    number: int


@dataclass(frozen=True)
class Layout:
    """How one benchmark is laid out.

    Attributes:
        cameras: by the number in the file names.
        path: of a shot's file, below the benchmark's folder.
        copies: where else a shot's file is.
        lists: name of a file that lists images -> what writes it.
        has_distractors: whether unlabelled people are in the gallery.
    """

    cameras: Mapping[int, Camera]
    path: Callable[[Shot], str]
    copies: Callable[[Shot], Sequence[str]] = lambda shot: ()
    lists: Mapping[str, ListFile] = field(default_factory=dict)
    has_distractors: bool = False

    def views(self) -> list[list[int]]:
        """Camera numbers, grouped by view in the order of the views."""
        views = sorted({camera.view for camera in self.cameras.values()})
        return [[number for number, camera in self.cameras.items() if camera.view == view] for view in views]


# Layout and all shots of a benchmark -> content of a list file.
ListFile = Callable[[Layout, Sequence[Shot]], bytes]


def ground_cameras(numbers: Sequence[int]) -> dict[int, Camera]:
    """Cameras on the ground: CARGO's eight, then these hung elsewhere."""
    return {number: sibling(6 + i % 8, i // 8) for i, number in enumerate(numbers)}


def text(lines: Sequence[str]) -> bytes:
    """Content of a list file."""
    return "".join(f"{line}\n" for line in lines).encode()
