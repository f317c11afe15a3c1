"""MSMT17 (Wei et al., CVPR 2018): 15 cameras of a campus, 12 of them outdoors."""

from __future__ import annotations

import re
from pathlib import Path

from fastreid.data.benchmarks.base import Benchmark, Protocol
from fastreid.data.benchmarks.lists import Lines
from fastreid.data.benchmarks.person_camera import ground_image, person_and_camera
from fastreid.data.benchmarks.sizes import Sizes
from fastreid.data.benchmarks.sources import Concatenated, FirstOf, Folder
from fastreid.structures import PersonImage

NUM_CAMERAS = 15
# V1, and V2 with masked faces.
TRAIN_FOLDERS, TEST_FOLDERS = ("train", "mask_train_v2"), ("test", "mask_test_v2")
_FILE_NAME = re.compile(r"[0-9]+_[0-9]+_(?P<camera>[0-9]+)_.+")


def read_msmt17(path: Path, person: int | None = None) -> PersonImage:
    """`0000_000_01_0303morning_0008_0.jpg` is camera 1 (camera id 0); the list gives the person.

    Without a list, the file name is that of a repack in Market-1501's form: `0000_c1_0000.jpg`.

    Raises:
        ValueError: the file name has another form.
        UnexpectedCamera: the camera is not one of the 15.
    """
    if person is None:
        return ground_image(path, *person_and_camera(path), NUM_CAMERAS)
    match = _FILE_NAME.fullmatch(path.stem)
    if not match:
        raise ValueError(f"{path.name} is not PERSON_IMAGE_CAMERA_…")
    return ground_image(path, person, int(match["camera"]), NUM_CAMERAS)


def _list(name: str, folders: tuple[str, ...]) -> Lines:
    return Lines((name,), folders, numbers=1)


TRAIN = Concatenated((_list("list_train.txt", TRAIN_FOLDERS), _list("list_val.txt", TRAIN_FOLDERS)))
QUERY = FirstOf((_list("list_query.txt", TEST_FOLDERS), Folder("query")))
GALLERY = FirstOf((_list("list_gallery.txt", TEST_FOLDERS), Folder("bounding_box_test")))

MSMT17 = Benchmark(
    "MSMT17",
    folders=(
        *("MSMT17_V1", "MSMT17_V2", "MSMT17/MSMT17_V1", "MSMT17/MSMT17_V2"),
        *("msmt17/MSMT17_V1", "msmt17/MSMT17_V2", "MSMT17", "msmt17"),
    ),
    train=FirstOf((TRAIN, Folder("bounding_box_train"))),
    read=read_msmt17,
    protocols={
        "MSMT17": Protocol(
            QUERY,
            GALLERY,
            sizes={"query": Sizes(11_659, 3_060), "gallery": Sizes(82_161, 3_060)},
            about="Every query against the whole gallery; only images under other cameras are matches.",
        ),
    },
    layout="""\
MSMT17_V1/                     or MSMT17_V2/, with mask_train_v2/ and mask_test_v2/
  train/0000/                  0000_000_01_0303morning_0008_0.jpg: person, image, camera (1 to 15), day and time, …
  test/0000/
  list_train.txt               0000/0000_000_01_0303morning_0008_0.jpg 0: path below train/, person
  list_val.txt                 list_query.txt and list_gallery.txt: below test/""",
    train_sizes=Sizes(32_621, 1_041),
    # Both are counted from 0 in the lists.
    first_test_person=1_041,
)
