"""VeRi-776: file names and folders; every vehicle is seen from the ground."""

from pathlib import Path

import pytest

from fastreid.data.benchmarks.base import UnexpectedCamera
from fastreid.data.benchmarks.veri import VERI
from tests.data.benchmarks.trees import labels, load, touch


def test_file_names():
    assert labels([VERI.read(Path("0002_c002_00030600_0.jpg"))]) == [(2, 1, 1)]
    assert labels([VERI.read(Path("0776_c020_00084510_1.jpg"))]) == [(776, 19, 1)]
    with pytest.raises(UnexpectedCamera, match="camera 21, where the benchmark has 1 to 20"):
        VERI.read(Path("0002_c021_00030600_0.jpg"))


@pytest.mark.parametrize("folder", ["VeRi", "VeRi_with_plate", "veri"])
def test_its_folders(tmp_path, folder):
    home = touch(tmp_path / folder, "image_train/0001_c001_00016450_0.jpg", "image_query/0002_c002_00030600_0.jpg")
    touch(home, "image_test/0002_c003_00030640_0.jpg", "image_test/0005_c004_00084510_0.jpg")
    dataset = load("VeRi", tmp_path)
    assert (labels(dataset.train), labels(dataset.query)) == ([(1, 0, 1)], [(2, 1, 1)])
    assert labels(dataset.gallery) == [(2, 2, 1), (5, 3, 1)]
