"""The record of one image of a person, with the labels that a protocol uses."""

from collections.abc import Iterator
from dataclasses import dataclass

JUNK_PERSON = -1
"""Person id of images that are removed from every ranking, for example badly cropped ones (Market-1501)."""
UNNAMED_PERSON = -2
"""Person id of gallery images whose person has no label: they count as wrong matches for every query."""


@dataclass(frozen=True, slots=True)
class PersonImage:
    """An image of a benchmark.

    It can be unpacked and indexed as fast-reid's tuple (path, person, camera).

    Attributes:
        path: path of the image file.
        person: identity, unique within its benchmark, or `JUNK_PERSON` or `UNNAMED_PERSON`.
        camera: camera id as the *protocol* numbers it; a protocol may number views instead of cameras.
        view: 0 aerial, 1 ground, 2 wearable (`View`).
        attributes: 1 for each attribute that the person has, else 0, in the order of the data set's `attribute_names`;
            () if they are not known.
    """

    path: str
    person: int
    camera: int
    view: int = 0
    attributes: tuple[int, ...] = ()

    def __iter__(self) -> Iterator[str | int]:
        return iter((self.path, self.person, self.camera))

    def __getitem__(self, position: int) -> str | int:
        return (self.path, self.person, self.camera)[position]
