"""VehicleID: lists that name the vehicle, and a gallery of one image each that is the same for everybody."""

from hashlib import sha256

import pytest

from fastreid.data.datasets import DatasetError
from fastreid.retrieval.matches import match_images
from tests.data.benchmarks.trees import labels, load, touch

TRAIN = ["0061606 18803", "0061607 18803", "0061700 7"]
TEST = {"0000001": 21, "0000002": 21, "0000003": 21, "0000004": 35, "0000005": 35, "0000006": 99}


def write(home, test=TEST, sizes=(800,)):
    touch(home, *(f"image/{line.split()[0]}.jpg" for line in (*TRAIN, *TEST)))
    lists = home / "train_test_split"
    lists.mkdir(exist_ok=True)
    (lists / "train_list.txt").write_text("\n".join(TRAIN))
    for size in sizes:
        (lists / f"test_list_{size}.txt").write_text("".join(f"{name} {of}\n" for name, of in test.items()))
    return home


@pytest.mark.parametrize("folder", ["VehicleID", "VehicleID_V1.0", "vehicleid"])
def test_the_list_says_the_vehicle_and_nobody_the_camera(tmp_path, folder):
    write(tmp_path / folder)
    dataset = load("SmallVehicleID", tmp_path)
    assert labels(dataset.train) == [(18803, 0, 1), (18803, 0, 1), (7, 0, 1)]
    assert {image.camera for image in dataset.query} == {0} and {image.camera for image in dataset.gallery} == {1}


def names(images):
    return [image.path.rpartition("/")[2].removesuffix(".jpg") for image in images]


def test_one_image_of_each_vehicle_is_the_gallery_whatever_the_order_of_the_lines(tmp_path):
    write(tmp_path / "a" / "VehicleID")
    write(tmp_path / "b" / "VehicleID", dict(reversed(TEST.items())))
    first, second = (load("SmallVehicleID", tmp_path / place) for place in "ab")
    drawn = [min((n for n in TEST if TEST[n] == v), key=lambda n: sha256(n.encode()).hexdigest()) for v in (21, 35, 99)]
    assert names(first.gallery) == drawn and names(second.gallery) == drawn[::-1]
    assert drawn == ["0000002", "0000004", "0000006"]  # pinned: figures of different versions compare
    assert names(first.query) == ["0000001", "0000003", "0000005"]
    assert match_images(first.query, first.gallery).num_positives.tolist() == [1, 1, 1]


def test_each_protocol_has_its_list(tmp_path):
    write(tmp_path / "VehicleID", sizes=(1600, 2400))
    for name in ("MediumVehicleID", "LargeVehicleID", "VehicleID"):
        assert len(load(name, tmp_path).gallery) == 3
    with pytest.raises(DatasetError, match="no list file .*test_list_800.txt"):
        load("SmallVehicleID", tmp_path)


def test_lines_without_a_vehicle_and_images_that_are_not_there_are_shown(tmp_path):
    home = write(tmp_path / "VehicleID")
    (home / "train_test_split/train_list.txt").write_text("0061606\n")
    with pytest.raises(DatasetError, match="1 of 1 lines .* not an image and 1 whole number, for example '0061606'"):
        load("SmallVehicleID", tmp_path)
    (home / "train_test_split/train_list.txt").write_text("0099999 5\n")
    with pytest.raises(DatasetError, match="1 are not there: image/0099999.jpg"):
        load("SmallVehicleID", tmp_path)
