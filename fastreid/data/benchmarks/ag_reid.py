"""AG-ReID (Nguyen et al., ICME 2023) and AG-ReID.v2 (IEEE TIFS 2024): a drone, CCTV, and in v2 smart glasses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fastreid.data.benchmarks.base import Benchmark, Protocol, UnexpectedCamera
from fastreid.data.benchmarks.lists import Listed
from fastreid.data.benchmarks.sizes import Sizes
from fastreid.data.benchmarks.sources import Folder
from fastreid.data.datasets.bases import DatasetError
from fastreid.structures import PersonImage, View

_FILE_NAME = re.compile(
    r"P(?P<person>[0-9]{1,8})T(?P<time>[0-9]{1,8})A(?P<altitude>[0-9]{1,2})C(?P<camera>[0-9]+)F[0-9]+.*"
)
# Number in the file name -> view, which is the camera id too.
V1_CAMERAS = {0: View.AERIAL, 3: View.GROUND}
V2_CAMERAS = {0: View.AERIAL, 3: View.GROUND, 2: View.WEARABLE}


def read_ag_reid(path: Path, cameras: Mapping[int, View]) -> PersonImage:
    """`P0006T02140A0C0F1831.jpg`: person 6 on the day and half-day 02140 at altitude 0, camera 0, frame 1831.

    The identity is the number that the digits of P, T and A make together: the same person on another day or at
    another altitude is another one.

    Raises:
        ValueError: the file name has another form.
        UnexpectedCamera: the camera is not in `cameras`.
    """
    match = _FILE_NAME.fullmatch(path.stem)
    if not match:
        raise ValueError(f"{path.name} is not P…T…A…C…F…")
    camera = int(match["camera"])
    if camera not in cameras:
        raise UnexpectedCamera(f"camera C{camera}, where the benchmark has {', '.join(f'C{c}' for c in cameras)}")
    view = cameras[camera]
    return PersonImage(str(path), int(match["person"] + match["time"] + match["altitude"]), int(view), view)


def read_attributes(path: str | Path) -> dict[str, dict[str, dict[str, int]]]:
    """The attributes of a `qut_attribute_v….mat` file -> {"train", "test", …: {identity: {attribute: value}}}.

    Nothing in SD-ReID uses them. Needs scipy.

    Raises:
        DatasetError: no such file, no MATLAB file, scipy is not installed, or no table of attributes in it.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DatasetError(f"reading {path} needs scipy: pip install scipy") from error
    if not Path(path).is_file():
        raise DatasetError(f"no attribute file {path}")
    tables: dict[str, dict[str, dict[str, int]]] = {}
    try:
        content = loadmat(path, simplify_cells=True)
        _collect_tables("attributes", {k: v for k, v in content.items() if not k.startswith("__")}, tables)
    except Exception as error:  # scipy may raise any error for damaged files or columns of another kind
        raise DatasetError(f"cannot read attributes from {path}: {error}") from error
    if not tables:
        raise DatasetError(f"{path} has no table of attributes: a struct with image_index and one list per attribute")
    return tables


def _collect_tables(name: str, node: Mapping[str, Any], tables: dict[str, dict[str, dict[str, int]]]) -> None:
    """A struct with image_index is a table; other structs hold tables."""
    if "image_index" not in node:
        for key, child in node.items():
            if isinstance(child, Mapping):
                _collect_tables(key, child, tables)
        return
    people = [str(person) for person in np.atleast_1d(node["image_index"])]
    columns = {key: np.atleast_1d(values) for key, values in node.items() if key != "image_index"}
    tables[name] = {
        person: {key: int(values[row]) for key, values in columns.items()} for row, person in enumerate(people)
    }


AERIAL, GROUND = frozenset({View.AERIAL}), frozenset({View.GROUND})

AG_REID_V1 = Benchmark(
    "AG_ReID_v1",
    folders=("AG-ReID", "AG-ReID.v1", "AG_ReID_v1"),
    train=Folder("bounding_box_train"),
    read=partial(read_ag_reid, cameras=V1_CAMERAS),
    protocols={
        "AG_ReID_v1_AG": Protocol(
            Folder("query_all_c0", AERIAL),
            Folder("bounding_box_test_all_c3", GROUND),
            sizes={
                "query": Sizes(1_071, note="The README says 1,701; its total of 2,033 leaves 1,071"),
                "gallery": Sizes(3_225, 185, "The README says 3,331; users count 3,225 images of 185 people"),
            },
            about="Drone queries against the CCTV gallery.",
        ),
        "AG_ReID_v1_GA": Protocol(
            Folder("query_all_c3", GROUND),
            Folder("bounding_box_test_all_c0", AERIAL),
            sizes={"query": Sizes(962), "gallery": Sizes(7_204)},
            about="CCTV queries against the drone gallery.",
        ),
    },
    aliases={"AG_ReID_v1": "AG_ReID_v1_AG"},
    layout="""\
AG-ReID/
  bounding_box_train/          P0006T02140A0C0F1831.jpg: person, time, altitude, camera (0 drone, 3 CCTV), frame
  query_all_c0/                bounding_box_test_all_c3/
  query_all_c3/                bounding_box_test_all_c0/""",
    train_sizes=Sizes(11_554, 199),
)


_CAMERA_NAMES = {View.AERIAL: "drone", View.GROUND: "CCTV", View.WEARABLE: "wearable"}


def _v2(number: int, name: str, query: View, gallery: View, size: Sizes) -> Protocol:
    file = f"exp{number}_{name}.txt"
    about = f"{_CAMERA_NAMES[query]} queries against the {_CAMERA_NAMES[gallery]} gallery."
    return Protocol(
        Listed(file, True, frozenset({query})),
        Listed(file, False, frozenset({gallery})),
        sizes={"gallery": size},
        about=about[0].upper() + about[1:],
    )


AG_REID_V2 = Benchmark(
    "AG_ReID_v2",
    folders=("AG-ReID.v2", "AG_ReID_v2"),
    train=Folder("train_all"),
    read=partial(read_ag_reid, cameras=V2_CAMERAS),
    protocols={
        "AG_ReID_v2_AC": _v2(1, "aerial_to_cctv", View.AERIAL, View.GROUND, Sizes(6_347, note="The paper says 6,374")),
        "AG_ReID_v2_AW": _v2(2, "aerial_to_wearable", View.AERIAL, View.WEARABLE, Sizes()),
        "AG_ReID_v2_CA": _v2(4, "cctv_to_aerial", View.GROUND, View.AERIAL, Sizes()),
        "AG_ReID_v2_WA": _v2(
            5, "wearable_to_aerial", View.WEARABLE, View.AERIAL, Sizes(12_568, note="The paper says 12,256")
        ),
    },
    aliases={"AG_ReID_v2": "AG_ReID_v2_AC"},
    layout="""\
AG-ReID.v2/
  train_all/<id>/              P0001T04041A0C0F31.jpg: as in AG-ReID; cameras 0 drone, 3 CCTV, 2 wearable
  query/<id>/                  gallery/<id>/
  exp1_aerial_to_cctv.txt      exp2_aerial_to_wearable.txt
  exp4_cctv_to_aerial.txt      exp5_wearable_to_aerial.txt""",
    train_sizes=Sizes(ids=807),
)
