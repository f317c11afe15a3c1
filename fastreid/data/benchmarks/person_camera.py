"""File names that begin with PERSON_cCAMERA, as those of Market-1501 and many later sets."""

import re
from pathlib import Path

from fastreid.data.benchmarks.base import UnexpectedCamera
from fastreid.structures import PersonImage, View

_FILE_NAME = re.compile(r"(?P<person>-1|[0-9]{1,18})_c(?P<camera>[0-9]{1,18}).*")


def person_and_camera(path: Path) -> tuple[int, int]:
    """`0002_c1s1_000451_03.jpg` -> (2, 1).

    Raises:
        ValueError: the file name has another form.
    """
    match = _FILE_NAME.fullmatch(path.stem)
    if not match:
        raise ValueError(f"{path.name} is not PERSON_cCAMERA…")
    return int(match["person"]), int(match["camera"])


def ground_image(path: Path, person: int, camera: int, num_cameras: int) -> PersonImage:
    """An image of a ground camera, 1 … `num_cameras`; camera ids count from 0.

    Raises:
        UnexpectedCamera: the camera is not one of these.
    """
    if not 1 <= camera <= num_cameras:
        raise UnexpectedCamera(f"camera {camera}, where the benchmark has 1 to {num_cameras}")
    return PersonImage(str(path), person, camera - 1, View.GROUND)


def read_person_camera(path: Path, num_cameras: int) -> PersonImage:
    """`0002_c1s1_000451_03.jpg` is person 2 under camera 1 (camera id 0).

    Raises:
        ValueError: the file name has another form.
        UnexpectedCamera: the camera is not one of the `num_cameras`.
    """
    return ground_image(path, *person_and_camera(path), num_cameras)
