"""The images of docs/your_data.md: 40 people under three cameras, four images each, in `photos/CAMERA/PERSON/`."""

import shutil
from collections.abc import Sequence
from pathlib import Path

CAMERAS, PEOPLE, IMAGES = ("door", "hall", "yard"), 40, 4


def write_photos(folder: Path, pictures: Sequence[Sequence[Path]]) -> None:
    """Write the images.

    Args:
        folder: the folder photos.
        pictures: for each of some people, twelve JPEG files; other people get those of the first ones again.
    """
    for person in range(PEOPLE):
        own = pictures[person % len(pictures)]
        for number, file in enumerate(own[: len(CAMERAS) * IMAGES]):
            place = folder / CAMERAS[number // IMAGES] / f"p{person + 1:02}" / f"{number % IMAGES:04}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)
