"""One image of one person, as a protocol sees it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PersonImage:
    """An image of a benchmark.

    Attributes:
        path: where the image file is.
        person: identity, unique within its benchmark; -1 is junk (in nobody's ranking).
        camera: camera id as the *protocol* numbers it; a protocol may number views instead of cameras.
        view: 0 aerial, 1 ground, 2 wearable.
    """

    path: str
    person: int
    camera: int
    view: int = 0
