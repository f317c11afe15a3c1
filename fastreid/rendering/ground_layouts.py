"""File names of the rendered benchmarks of people seen from the ground only."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

import numpy as np

from .layout import Layout, ListFile, Shot, ground_cameras, text

_TESTED = ("query", "gallery")
_MARKET_FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
# Every third image of unlabelled people is junk, one is in the gallery, and one in the 500,000 distractors.
_MARKET_DISTRACTORS = ("bounding_box_test/-1", "bounding_box_test/0000", "images/0000")


def _market1501_path(shot: Shot) -> str:
    of = f"{_MARKET_FOLDERS.get(shot.split)}/{shot.person:04d}"
    if shot.split == "distractor":
        of = _MARKET_DISTRACTORS[shot.image % len(_MARKET_DISTRACTORS)]
    return f"{of}_c{shot.camera}s1_{shot.number:06d}_01.jpg"


def _dukemtmc_path(shot: Shot) -> str:
    return f"{_MARKET_FOLDERS[shot.split]}/{shot.person:04d}_c{shot.camera}_f{shot.number:07d}.jpg"


def _msmt17_name(shot: Shot) -> str:
    return f"{shot.person:04d}/{shot.person:04d}_{shot.image:03d}_{shot.camera:02d}_0303morning_{shot.number:04d}_0.jpg"


def _msmt17_path(shot: Shot) -> str:
    return f"{'train' if shot.split == 'train' else 'test'}/{_msmt17_name(shot)}"


def _msmt17_list(part: str) -> ListFile:
    """A list file; the first image of each training person is for validation."""

    def content(layout: Layout, shots: Sequence[Shot]) -> bytes:
        parts = (("val" if s.split == "train" and s.image == 0 else s.split, s) for s in shots)
        return text([f"{_msmt17_name(shot)} {shot.person}" for found, shot in parts if found == part])

    return content


def _cuhk03_name(shot: Shot) -> str:
    return f"1_{shot.person:03d}_{shot.camera}_{shot.number:02d}.png"


def _cuhk03_path(shot: Shot) -> str:
    return f"images_labeled/{_cuhk03_name(shot)}"


def _cuhk03_copies(shot: Shot) -> list[str]:
    return [f"images_detected/{_cuhk03_name(shot)}"]


def _cuhk03_new(layout: Layout, shots: Sequence[Shot]) -> bytes:
    """A .mat file. Its first 116 bytes are a comment, where scipy writes the time."""
    from scipy.io import savemat

    chosen = {f"{part}_idx": [i for i, shot in enumerate(shots, 1) if shot.split == part] for part in _MARKET_FOLDERS}
    content = io.BytesIO()
    savemat(content, {"filelist": np.array([[_cuhk03_name(shot)] for shot in shots], dtype=object), **chosen})
    return b"MATLAB 5.0 MAT-file".ljust(116) + content.getvalue()[116:]


def _cuhk03_classic(layout: Layout, shots: Sequence[Shot]) -> bytes:
    """One split, in which every test image is in the query and in the gallery."""
    rows = {
        part: [(f"/data/{_cuhk03_name(shot)}", shot.person, shot.camera - 1) for shot in shots if shot.split in splits]
        for part, splits in (("train", ("train",)), ("query", _TESTED), ("gallery", _TESTED))
    }
    return json.dumps([rows]).encode()


GROUND_LAYOUTS: dict[str, Layout] = {
    "Market1501": Layout(ground_cameras(range(1, 7)), _market1501_path, has_distractors=True),
    "DukeMTMC": Layout(ground_cameras(range(1, 9)), _dukemtmc_path),
    "MSMT17": Layout(
        ground_cameras(range(1, 16)),
        _msmt17_path,
        lists={f"list_{part}.txt": _msmt17_list(part) for part in ("train", "val", "query", "gallery")},
    ),
    "CUHK03": Layout(
        ground_cameras(range(1, 3)),
        _cuhk03_path,
        copies=_cuhk03_copies,
        lists={
            **{f"cuhk03_new_protocol_config_{boxes}.mat": _cuhk03_new for boxes in ("labeled", "detected")},
            **{f"splits_classic_{boxes}.json": _cuhk03_classic for boxes in ("labeled", "detected")},
        },
    ),
}
