"""CUHK03: hand-drawn and detected boxes, the new protocol in three forms, the classic one, and single shot."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from fastreid.data.benchmarks.base import UnexpectedCamera
from fastreid.data.benchmarks.cuhk03 import read_cuhk03
from fastreid.data.datasets import DatasetError
from fastreid.retrieval.matches import match_images
from tests.data.benchmarks.trees import labels, load, touch

# Two people to train on, of different pairs; two to test.
NAMES = [
    *("1_001_1_01.png", "1_001_2_06.png", "2_001_1_01.png"),
    *("1_002_1_01.png", "1_002_2_01.png", "3_014_1_02.png", "3_014_2_03.png"),
]
TRAIN, QUERY, GALLERY = [1, 2, 3], [4, 6], [7, 5]
LABELS = {
    "train": [(1001, 0, 1), (1001, 1, 1), (2001, 0, 1)],
    "query": [(1002, 0, 1), (3014, 0, 1)],
    "gallery": [(3014, 1, 1), (1002, 1, 1)],
}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("1_001_1_01.png", (1001, 0, 1)),
        ("5_049_2_10.png", (5049, 1, 1)),
        ("0001_c1_000151.png", (1, 0, 1)),
        ("0767_c2_9.png", (767, 1, 1)),
    ],
)
def test_file_names(name, found):
    assert labels([read_cuhk03(Path(name))]) == [found]


def test_other_names_and_cameras():
    with pytest.raises(UnexpectedCamera, match="camera 3, where the benchmark has 1 to 2"):
        read_cuhk03(Path("1_001_3_01.png"))
    with pytest.raises(ValueError, match="is not PERSON_cCAMERA"):
        read_cuhk03(Path("Cam1_day_1_1.jpg"))


def write_mat(home: Path, boxes: str, **changes) -> Path:
    touch(home, *(f"images_{boxes}/{name}" for name in NAMES))
    content = {
        "filelist": np.array([[name] for name in NAMES], dtype=object),
        "labels": np.arange(len(NAMES))[:, None],
        **{f"{part}_idx": np.array(of)[:, None] for part, of in (("train", TRAIN), ("query", QUERY))},
        "gallery_idx": np.array(GALLERY)[:, None],
    }
    content = {key: value for key, value in {**content, **changes}.items() if value is not None}
    savemat(home / f"cuhk03_new_protocol_config_{boxes}.mat", content)
    return home


def found(dataset) -> dict[str, list]:
    return {part: labels(getattr(dataset, part)) for part in LABELS}


@pytest.mark.parametrize("folder", ["cuhk03", "CUHK03", "cuhk03-np"])
def test_the_new_protocol_of_the_mat_file(tmp_path, folder):
    write_mat(tmp_path / folder, "labeled")
    write_mat(tmp_path / folder, "detected", query_idx=np.array([[6]]))
    assert found(load("CUHK03_labeled", tmp_path)) == found(load("CUHK03", tmp_path)) == LABELS
    detected = load("CUHK03_detected", tmp_path)
    assert found(detected) == LABELS | {"query": [(3014, 0, 1)]}
    assert "images_detected" in detected.train[0].path  # the boxes that are tested are trained on, too


def rows(numbers, folder="/home/other/cuhk03/images_labeled/"):
    return [(folder + NAMES[number - 1], 5, 0) for number in numbers]


def test_the_new_protocol_as_torchreid_writes_it(tmp_path):
    home = touch(tmp_path / "cuhk03", *(f"images_labeled/{name}" for name in NAMES))
    split = {"train": rows(TRAIN), "query": rows(QUERY, "D:\\cuhk03\\images_labeled\\"), "gallery": rows(GALLERY)}
    (home / "splits_new_labeled.json").write_text(json.dumps([split]))
    assert found(load("CUHK03_labeled", tmp_path)) == LABELS


def test_a_repack_in_the_form_of_market1501(tmp_path):
    home = touch(tmp_path / "cuhk03-np", "detected/bounding_box_train/0001_c1_1.png", "detected/query/0003_c1_21.png")
    touch(home, "detected/bounding_box_test/0003_c2_22.png")
    expected = {"train": [(1, 0, 1)], "query": [(3, 0, 1)], "gallery": [(3, 1, 1)]}
    assert found(load("CUHK03_detected", tmp_path)) == expected


@pytest.fixture
def classic(tmp_path):
    home = touch(tmp_path / "cuhk03", *(f"images_detected/{name}" for name in NAMES))
    test = rows([4, 5, 6, 7])
    splits = [{"train": rows(TRAIN), "query": test, "gallery": test}, {"train": [], "query": [], "gallery": []}]
    (home / "splits_classic_detected.json").write_text(json.dumps(splits))
    return tmp_path


def test_the_classic_protocol_asks_for_every_test_image_in_all_of_them(classic):
    dataset = load("CUHK03_classic_detected", classic)
    test = [(1002, 0, 1), (1002, 1, 1), (3014, 0, 1), (3014, 1, 1)]
    assert found(dataset) == {"train": LABELS["train"], "query": test, "gallery": test}
    matches = match_images(dataset.query, dataset.gallery)  # a query does not find itself
    assert matches.num_positives.tolist() == [1] * 4 and matches.num_valid_gallery.tolist() == [3] * 4


def test_without_its_files_it_is_said_what_is_needed(classic):
    needed = r"no file .*{}(.|\n)*extract them from cuhk-03.mat, which is not read here"
    with pytest.raises(DatasetError, match=needed.format("splits_classic_labeled.json")):
        load("CUHK03_classic_labeled", classic)
    with pytest.raises(DatasetError, match=needed.format("cuhk03_new_protocol_config_labeled.mat")):
        load("CUHK03", classic)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_idx": None}, "cannot read train of .*: KeyError: 'train_idx'"),
        ({"train_idx": np.array([[8]])}, "cannot read train of .*: IndexError"),
        ({"train_idx": np.array([[0, 1]])}, "train_idx counts from 0, not from 1"),
        ({"filelist": np.array([["1_009_1_01.png"]] * 7, dtype=object)}, "not there: images_labeled/1_009_1_01.png"),
    ],
)
def test_mat_files_that_cannot_be_used(tmp_path, changes, said):
    write_mat(tmp_path / "cuhk03", "labeled", **changes)
    with pytest.raises(DatasetError, match=said):
        load("CUHK03", tmp_path)


@pytest.mark.parametrize("content", [b"not a file of MATLAB", b""])
def test_files_of_another_kind(tmp_path, content):
    write_mat(tmp_path / "cuhk03", "labeled")
    (tmp_path / "cuhk03/cuhk03_new_protocol_config_labeled.mat").write_bytes(content)
    (tmp_path / "cuhk03/splits_classic_labeled.json").write_bytes(content)
    with pytest.raises(DatasetError, match="cannot read train of cuhk03_new_protocol_config_labeled.mat"):
        load("CUHK03", tmp_path)
    with pytest.raises(DatasetError, match="cannot read train of splits_classic_labeled.json"):
        load("CUHK03_classic_labeled", tmp_path)
