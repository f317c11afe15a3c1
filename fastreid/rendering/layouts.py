"""File names of the rendered benchmarks: a row for each aerial-ground benchmark, and those of the others."""

from __future__ import annotations

from collections.abc import Sequence

from fastreid.data.benchmarks.g2aps import UNLABELLED_PERSON
from fastreid.data.benchmarks.lagper import AERIAL_CAMERAS, MISSING_CAMERA
from fastreid.structures import View
from fastreid.utils.suggest import explain_choice

from .cameras import CARGO_CAMERAS, WEARABLE_CAMERA, Camera, sibling
from .ground_layouts import GROUND_LAYOUTS
from .layout import Layout, ListFile, Shot, ground_cameras, text
from .vehicle_layouts import VEHICLE_LAYOUTS


def _cargo_path(shot: Shot) -> str:
    return f"{shot.split}/Cam{shot.camera}/Cam{shot.camera}_day_{shot.person}_{shot.number}.jpg"


def _ag_reid_name(shot: Shot) -> tuple[str, str]:
    """Person with time and altitude, and the name of the file."""
    person = f"P{shot.person:04d}T02140A0"
    return person, f"{person}C{shot.camera}F{shot.number}.jpg"


def _v1_path(shot: Shot) -> str:
    folders = {"query": f"query_all_c{shot.camera}", "gallery": f"bounding_box_test_all_c{shot.camera}"}
    return f"{folders.get(shot.split, 'bounding_box_train')}/{_ag_reid_name(shot)[1]}"


def _v2_path(shot: Shot) -> str:
    person, name = _ag_reid_name(shot)
    return f"{'train_all' if shot.split == 'train' else shot.split}/{person}/{name}"


def _lagper_path(shot: Shot) -> str:
    folder = "bounding_box_train/images" if shot.split == "train" else f"{shot.split}_images"
    return f"{folder}/{shot.person:04d}_c{shot.camera}_{shot.number:06d}.jpg"


def _g2aps_path(shot: Shot) -> str:
    if shot.split == "distractor":
        return f"bounding_box_gallery/{UNLABELLED_PERSON}_c{shot.camera}v1_{shot.number:06d}.jpg"
    tests = {"query": f"query_c{shot.camera}", "gallery": f"bounding_box_test_c{shot.camera}"}
    person = f"{shot.person:04d}"
    folder = tests.get(shot.split, "bounding_box_train")
    return f"{folder}/{person}/{person}_c{shot.camera}v1_{shot.number:06d}.jpg"


def _lagper_cameras() -> dict[int, Camera]:
    numbers = [number for number in range(1, 23) if number != MISSING_CAMERA]
    aerial = [number for number in numbers if number in AERIAL_CAMERAS]
    ground = [number for number in numbers if number not in AERIAL_CAMERAS]
    cameras = {number: sibling(1 + i % 5, i // 5) for i, number in enumerate(aerial)}
    return dict(sorted((cameras | ground_cameras(ground)).items()))


def _across(query_view: View, gallery_views: frozenset[View]) -> ListFile:
    """A list file with the queries of one view, then the gallery of others."""

    def content(layout: Layout, shots: Sequence[Shot]) -> bytes:
        queries = [s for s in shots if s.split == "query" and layout.cameras[s.camera].view == query_view]
        others = (s for s in shots if s.split in ("gallery", "distractor"))
        gallery = [s for s in others if layout.cameras[s.camera].view in gallery_views]
        return text([layout.path(shot) for shot in (*queries, *gallery)])

    return content


_DRONE_AND_STREET = {0: CARGO_CAMERAS[2], 3: CARGO_CAMERAS[7]}
_AERIAL, _GROUND, _WEARABLE = (frozenset({view}) for view in View)
_BOTH_WAYS = {"exp3_A2G+.txt": _across(View.AERIAL, _GROUND), "exp4_G2A+.txt": _across(View.GROUND, _AERIAL)}

LAYOUTS: dict[str, Layout] = {
    "CARGO": Layout(CARGO_CAMERAS, _cargo_path),
    "AG_ReID_v1": Layout(_DRONE_AND_STREET, _v1_path),
    "AG_ReID_v2": Layout(
        {**_DRONE_AND_STREET, 2: WEARABLE_CAMERA},
        _v2_path,
        lists={
            "exp1_aerial_to_cctv.txt": _across(View.AERIAL, _GROUND),
            "exp2_aerial_to_wearable.txt": _across(View.AERIAL, _WEARABLE),
            "exp4_cctv_to_aerial.txt": _across(View.GROUND, _AERIAL),
            "exp5_wearable_to_aerial.txt": _across(View.WEARABLE, _AERIAL),
        },
    ),
    "LAGPeR": Layout(
        _lagper_cameras(), _lagper_path, lists={**_BOTH_WAYS, "exp5_G2A+G.txt": _across(View.GROUND, _AERIAL | _GROUND)}
    ),
    "G2APS_ReID": Layout(_DRONE_AND_STREET, _g2aps_path, lists=_BOTH_WAYS, has_distractors=True),
    **GROUND_LAYOUTS,
    **VEHICLE_LAYOUTS,
}


def get_layout(name: str) -> Layout:
    """The layout of benchmark `name`.

    Raises:
        ValueError: there is none; names the near matches.
    """
    if name not in LAYOUTS:
        raise ValueError(explain_choice("rendered benchmark", name, LAYOUTS))
    return LAYOUTS[name]
