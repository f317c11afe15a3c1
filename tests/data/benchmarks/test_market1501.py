"""Market-1501 and DukeMTMC-reID: file names, bad boxes, people whom nobody asks for, half a million distractors."""

import logging
from pathlib import Path

import pytest

from fastreid.data.benchmarks import BENCHMARK_OF
from fastreid.data.benchmarks.base import UnexpectedCamera
from fastreid.data.datasets import DatasetError
from tests.data.benchmarks.trees import labels, load, touch


@pytest.mark.parametrize(
    ("benchmark", "name", "found"),
    [
        ("Market1501", "0002_c1s1_000451_03.jpg", (2, 0, 1)),
        ("Market1501", "1501_c6s4_001877_02.jpg", (1501, 5, 1)),
        ("Market1501", "-1_c3s2_000001_01.jpg", (-1, 2, 1)),
        ("Market1501", "0000_c2s1_000976_01.jpg", (0, 1, 1)),
        ("DukeMTMC", "0002_c1_f0044158.jpg", (2, 0, 1)),
        ("DukeMTMC", "7140_c8_f0133721.jpg", (7140, 7, 1)),
    ],
)
def test_file_names(benchmark, name, found):
    assert labels([BENCHMARK_OF[benchmark].read(Path(name))]) == [found]


@pytest.mark.parametrize(("benchmark", "camera"), [("Market1501", 0), ("Market1501", 7), ("DukeMTMC", 9)])
def test_cameras_that_are_not_there_are_skipped(benchmark, camera):
    with pytest.raises(UnexpectedCamera, match=f"camera {camera}, where the benchmark has 1 to [68]"):
        BENCHMARK_OF[benchmark].read(Path(f"0002_c{camera}s1_000451_03.jpg"))


FILES = (
    *("bounding_box_train/0002_c1s1_000451_03.jpg", "bounding_box_train/0007_c6s3_001_01.jpg"),
    "query/0001_c2s1_000301_00.jpg",
    *("bounding_box_test/0001_c1s1_000301_01.jpg", "bounding_box_test/0000_c3s1_000301_01.jpg"),
    *("bounding_box_test/-1_c1s1_000302_01.jpg", "bounding_box_test/Thumbs.db"),
)


@pytest.mark.parametrize(
    "folder", ["Market-1501-v15.09.15", "market1501", "Market-1501", "Market1501/Market-1501-v15.09.15"]
)
def test_bad_boxes_are_dropped_and_other_people_stay(tmp_path, folder):
    touch(tmp_path / folder, *FILES)
    dataset = load("Market1501", tmp_path)
    assert labels(dataset.train) == [(2, 0, 1), (7, 5, 1)]
    assert (labels(dataset.query), labels(dataset.gallery)) == ([(1, 1, 1)], [(0, 2, 1), (1, 0, 1)])


def test_half_a_million_more_are_in_a_folder_of_their_own(tmp_path):
    home = touch(tmp_path / "Market1501", *FILES)
    with pytest.raises(DatasetError, match="no images in .*images(.|\n)*for Market1501_500K only"):
        load("Market1501_500K", tmp_path)
    touch(home, "images/0000_c5s1_000001_01.jpg", "images/0000_c5s1_000002_01.jpg")
    assert labels(load("Market1501_500K", tmp_path).gallery) == [(0, 2, 1), (1, 0, 1), (0, 4, 1), (0, 4, 1)]


def test_training_on_everything_leaves_out_those_whom_nobody_asks_for(tmp_path):
    touch(tmp_path / "Market1501", *FILES)
    assert [who for _, who in load("Market1501", tmp_path).training_people(combineall=True)] == [2, 7, 1, 1]


def test_other_sizes_than_published_are_logged(tmp_path, caplog):
    touch(tmp_path / "DukeMTMC-reID", *(name for name in FILES if "db" not in name))
    load("DukeMTMC", tmp_path)
    assert "bounding_box_train: 2 images where 16,522 are published and 2 people where 702" in caplog.text
    assert "gallery of DukeMTMC: 2 images where 17,661 are published and 2 people where 1,110" in caplog.text


# Other data in the benchmark's form


def own_files(cameras):
    return [f"bounding_box_train/{n:04}_c{c}s1_{i:06}_01.jpg" for c in cameras for n in range(2, 7) for i in range(4)]


def test_own_images_with_cameras_of_their_own_are_refused_with_the_remedy(tmp_path):
    touch(tmp_path / "Market1501", *own_files((1, 7, 8, 12)))
    with pytest.raises(DatasetError, match="60 of 80 images in .*bounding_box_train, are of cameras that .*csv:FILE"):
        load("Market1501", tmp_path)


def test_a_few_strange_cameras_are_counted_with_the_remedy(tmp_path, caplog):
    touch(tmp_path / "Market1501", *FILES, *own_files((1, 2, 7)))
    assert len(load("Market1501", tmp_path).train) == 42
    assert "20 images skipped: camera 7, where the benchmark has 1 to 6 (of 62 images). Own images" in caplog.text


@pytest.mark.parametrize(
    "name", ["٠٠٠٢_c1s1_1.jpg", "0002_c١s1_1.jpg", "1_1_c1.jpg", "-2_c1s1_1.jpg", f"{'9' * 20}_c1.jpg"]
)
def test_numbers_are_digits_that_fit(tmp_path, name):
    touch(tmp_path / "Market1501", *FILES, f"bounding_box_train/{name}")
    with pytest.raises(DatasetError, match="1 of 3 images in .*, bounding_box_train, have no Market1501 file name"):
        load("Market1501", tmp_path)


def test_junk_and_other_files_are_counted(tmp_path, caplog):
    touch(tmp_path / "Market1501", *FILES, "bounding_box_test/readme.txt")
    with caplog.at_level(logging.INFO):
        load("Market1501", tmp_path)
    assert "bounding_box_test: 1 junk images (bad boxes) skipped" in caplog.text
    assert "bounding_box_test: skipped 1 files with other suffixes: .txt (1)" in caplog.text


def test_a_second_copy_is_logged(tmp_path, caplog):
    home = touch(tmp_path / "Market-1501-v15.09.15", *FILES)
    other = touch(tmp_path / "market1501", *FILES)
    (tmp_path / "Market").symlink_to(home)
    load("Market1501", tmp_path)
    assert f"Market1501 is read from {home}, not from {other}, which exists too" in caplog.text
