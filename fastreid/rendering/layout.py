"""The form of a rendered benchmark: cameras, file names, list files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .cameras import Camera, sibling


class Shot(NamedTuple):
    """One image to render.

    Attributes:
        split: "train", "query", "gallery", or "distractor" for unlabelled people.
        person: id of the person.
        camera: number of the camera.
        image: number of the image among those of the person, from 0.
        number: number of the image in the benchmark, from 1.
    """

    split: str
    person: int
    camera: int
    image: int
    number: int


@dataclass(frozen=True)
class Layout:
    """The layout of one benchmark.

    Attributes:
        cameras: number in the file names -> camera.
        path: shot -> path of its file below the benchmark's folder.
        copies: shot -> further paths of its file.
        lists: name of a list file -> function that makes its content.
        has_distractors: whether the gallery has unlabelled people.
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
    """Ground cameras: the eight of CARGO, then variants of them."""
    return {number: sibling(6 + i % 8, i // 8) for i, number in enumerate(numbers)}


def text(lines: Sequence[str]) -> bytes:
    """Content of a list file."""
    return "".join(f"{line}\n" for line in lines).encode()
