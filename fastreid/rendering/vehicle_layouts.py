"""File names of the rendered benchmarks of vehicles, which show people instead."""

from __future__ import annotations

from collections.abc import Sequence

from .layout import Layout, ListFile, Shot, ground_cameras, text


def _veri_path(shot: Shot) -> str:
    folder = {"train": "image_train", "query": "image_query", "gallery": "image_test"}[shot.split]
    return f"{folder}/{shot.person:04d}_c{shot.camera:03d}_{shot.number:08d}_0.jpg"


def _vehicle_id_path(shot: Shot) -> str:
    return f"image/{shot.number:07d}.jpg"


def _vehicle_id_list(train: bool) -> ListFile:
    def content(layout: Layout, shots: Sequence[Shot]) -> bytes:
        return text([f"{shot.number:07d} {shot.person}" for shot in shots if (shot.split == "train") == train])

    return content


def _veri_wild_name(shot: Shot) -> str:
    return f"{shot.person:05d}/{shot.number:06d}"


def _veri_wild_path(shot: Shot) -> str:
    return f"images/{_veri_wild_name(shot)}.jpg"


def _veri_wild_list(split: str) -> ListFile:
    def content(layout: Layout, shots: Sequence[Shot]) -> bytes:
        return text([f"{_veri_wild_name(shot)}.jpg" for shot in shots if shot.split == split])

    return content


def _veri_wild_info(layout: Layout, shots: Sequence[Shot]) -> bytes:
    seen = [f"{_veri_wild_name(shot)};{shot.camera};2018-03-11 16:55:45;person;;" for shot in shots]
    return text(["id/image;Camera ID;Time;Model;Type;Color", *seen])


def _in_splits(lists: dict[str, ListFile]) -> dict[str, ListFile]:
    return {f"train_test_split/{name}": content for name, content in lists.items()}


# Small, medium and large are the same here.
_VEHICLE_ID_LISTS = {f"test_list_{size}.txt": _vehicle_id_list(train=False) for size in (800, 1600, 2400)}
_VERI_WILD_LISTS = {
    f"test_{size}{end}.txt": _veri_wild_list(split)
    for size in (3000, 5000, 10000)
    for end, split in (("_query", "query"), ("", "gallery"))
}

VEHICLE_LAYOUTS: dict[str, Layout] = {
    "VeRi": Layout(ground_cameras(range(1, 21)), _veri_path),
    "VehicleID": Layout(
        ground_cameras(range(1, 9)),
        _vehicle_id_path,
        lists=_in_splits({"train_list.txt": _vehicle_id_list(train=True), **_VEHICLE_ID_LISTS}),
    ),
    "VeRiWild": Layout(
        ground_cameras(range(1, 25)),
        _veri_wild_path,
        lists=_in_splits(
            {"vehicle_info.txt": _veri_wild_info, "train_list.txt": _veri_wild_list("train"), **_VERI_WILD_LISTS}
        ),
    ),
}
