"""CARGO: 13 rendered cameras, 5 aerial and 8 ground (Zhang et al., CVPR 2024, the VDT paper)."""

import re
from dataclasses import replace
from pathlib import Path

from fastreid.data.benchmarks.base import Benchmark, Folder, Protocol, Sizes, View
from fastreid.structures import PersonImage

LAST_AERIAL_CAMERA = 5
_FILE_NAME = re.compile(r"Cam(?P<camera>\d+)_[^_]+_(?P<person>\d+)_\d+")


def read_cargo(path: Path) -> PersonImage:
    """`Cam2_day_2519_320.jpg` is camera 2 (aerial), person 2519; camera ids count from 0.

    Raises:
        ValueError: the file name has another form.
    """
    match = _FILE_NAME.fullmatch(path.stem)
    if not match:
        raise ValueError(f"{path.name} is not CamN_TIME_PERSON_INDEX")
    camera = int(match["camera"])
    view = View.AERIAL if camera <= LAST_AERIAL_CAMERA else View.GROUND
    return PersonImage(str(path), int(match["person"]), camera - 1, view)


by_folder = Protocol()

CARGO = Benchmark(
    "CARGO",
    folder="CARGO",
    train=Folder("train"),
    read=read_cargo,
    protocols={
        "CARGO": by_folder,
        "CARGO_AA": replace(by_folder, views=frozenset({View.AERIAL})),
        "CARGO_GG": replace(by_folder, views=frozenset({View.GROUND})),
        # Two-way: with the view as camera, a query's matches are all in the other view (VDT, SD-ReID).
        "CARGO_AG": replace(by_folder, camera_is_view=True),
    },
    layout="CARGO/{train,query,gallery}/Cam1 … Cam13/CamN_TIME_PERSON_INDEX.jpg (Cam2_day_2519_320.jpg)",
    expected=Sizes(train_images=51_451, train_ids=2_500, query_images=312, gallery_images=50_712),
)
