"""MSMT17: list files, both versions of its folders, repacks, and people who are counted from 0 twice."""

from pathlib import Path

import pytest

from fastreid.data.benchmarks.base import UnexpectedCamera
from fastreid.data.benchmarks.msmt17 import read_msmt17
from fastreid.data.datasets import DatasetError
from tests.data.benchmarks.trees import labels, load, touch

NAMES = {
    "train": ["0000/0000_000_01_0303morning_0008_0.jpg", "0001/0001_003_15_0302noon_1174_1.jpg"],
    "val": ["0000/0000_009_04_0303morning_0030_0.jpg"],
    "query": ["0000/0000_002_05_0303afternoon_0104_0.jpg"],
    "gallery": ["0000/0000_011_06_0303afternoon_0205_0.jpg", "0001/0001_000_14_0303morning_0015_2.jpg"],
}


def test_the_camera_is_in_the_name_and_the_person_in_the_list():
    image = read_msmt17(Path("0007_000_01_0303morning_0008_0.jpg"), 3)
    assert labels([image]) == [(3, 0, 1)]
    assert labels([read_msmt17(Path("0007_013_15_0303morning_0008_0_ex.jpg"), 7)]) == [(7, 14, 1)]
    with pytest.raises(UnexpectedCamera, match="camera 16, where the benchmark has 1 to 15"):
        read_msmt17(Path("0007_000_16_0303morning_0008_0.jpg"), 7)
    with pytest.raises(ValueError, match="is not PERSON_IMAGE_CAMERA"):
        read_msmt17(Path("0002_c1s1_000451_03.jpg"), 7)


def write(home: Path, train: str, test: str) -> Path:
    for part, names in NAMES.items():
        folder = train if part in ("train", "val") else test
        touch(home, *(f"{folder}/{name}" for name in names))
        (home / f"list_{part}.txt").write_text("".join(f"{name} {int(name[:4])}\n" for name in names))
    return home


@pytest.mark.parametrize("home", ["MSMT17_V1", "MSMT17", "msmt17/MSMT17_V1"])
def test_version_1(tmp_path, home):
    write(tmp_path / home, "train", "test")
    dataset = load("MSMT17", tmp_path)
    assert labels(dataset.train) == [(0, 0, 1), (1, 14, 1), (0, 3, 1)]  # those for validation, too
    # Test people are others than those to train on, who are also counted from 0.
    assert labels(dataset.query) == [(1041, 4, 1)]
    assert labels(dataset.gallery) == [(1041, 5, 1), (1042, 13, 1)]


@pytest.mark.parametrize("home", ["MSMT17_V2", "MSMT17/MSMT17_V2"])
def test_version_2(tmp_path, home):
    write(tmp_path / home, "mask_train_v2", "mask_test_v2")
    dataset = load("MSMT17", tmp_path)
    assert "mask_train_v2" in dataset.train[0].path and "mask_test_v2" in dataset.query[0].path
    assert [len(split) for split in (dataset.train, dataset.query, dataset.gallery)] == [3, 1, 2]


def test_a_repack_is_read_by_its_names(tmp_path):
    home = touch(tmp_path / "MSMT17", "bounding_box_train/0000_c1_0000.jpg", "query/0000_c5_0002.jpg")
    touch(home, "bounding_box_test/0000_c15_0011.jpg")
    dataset = load("MSMT17", tmp_path)
    assert (labels(dataset.train), labels(dataset.query)) == ([(0, 0, 1)], [(1041, 4, 1)])
    assert labels(dataset.gallery) == [(1041, 14, 1)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, r"no list file .*list_val.txt .*MSMT17_V1 holds list_gallery.txt(.|\n)*list_val.txt  "),
        ("", "list_val.txt is empty"),
        (
            "0000/0000_009_04_0303morning_0030_0.jpg\n",
            "1 of 1 lines of .*list_val.txt are not an image and 1 whole number",
        ),
        ("0000/0000_009_04_x_0030_0.jpg one\n", "not an image and 1 whole number, for example '0000/.*jpg one'"),
        ("0000/0000_010_04_x_0030_0.jpg 0\n", "of 1 images .list_val.txt. 1 are not there: train/0000/0000_010_04"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path, text, said):
    home = write(tmp_path / "MSMT17_V1", "train", "test")
    (home / "list_val.txt").unlink()
    if text is not None:
        (home / "list_val.txt").write_text(text)
    with pytest.raises(DatasetError, match=said):
        load("MSMT17", tmp_path)


def test_files_of_another_benchmark_in_a_list_are_shown(tmp_path):
    home = touch(write(tmp_path / "MSMT17_V1", "train", "test"), "train/0002_c1s1_000451_03.jpg")
    (home / "list_val.txt").write_text("0002_c1s1_000451_03.jpg 2\n")
    with pytest.raises(
        DatasetError, match="1 of 3 images in .*, have no MSMT17 file name, for example train/0002_c1s1"
    ):
        load("MSMT17", tmp_path)
