"""VERI-Wild: the list says the vehicle, another file the camera."""

import pytest

from fastreid.data.datasets import DatasetError
from tests.data.benchmarks.trees import labels, load, touch

INFO = """id/image;Camera ID;Time;Model;Type;Color
00001/000001;90;2018-03-11 16:55:45;Audi A4;sedan;white
00001/000002;3;2018-03-12 06:55:45;Audi A4;sedan;white
00007/000011;174;2018-03-11 16:55:45;;;
00007/000012;5;2018-03-11 16:55:45;;;
00008/000013;6;2018-03-11 16:55:45;;;
"""
LISTS = {
    "train_list": "00001/000001.jpg\n00001/000002.jpg\n",
    "test_3000_query": "00007/000011.jpg\n",
    "test_3000": "00007/000012.jpg\n00008/000013.jpg\n",
}


def write(home, info=INFO, lists=LISTS):
    touch(home, *(f"images/{line.split(';')[0]}.jpg" for line in INFO.splitlines()[1:]))
    touch(home, "train_test_split/vehicle_info.txt")
    (home / "train_test_split/vehicle_info.txt").write_text(info)
    for name, text in lists.items():
        (home / f"train_test_split/{name}.txt").write_text(text)
    return home


@pytest.mark.parametrize("folder", ["VERI-Wild", "veriwild"])
def test_vehicles_and_cameras(tmp_path, folder):
    write(tmp_path / folder)
    dataset = load("SmallVeRiWild", tmp_path)
    assert labels(dataset.train) == [(1, 90, 1), (1, 3, 1)]
    assert labels(dataset.query) == [(7, 174, 1)]
    assert labels(dataset.gallery) == [(7, 5, 1), (8, 6, 1)]


@pytest.mark.parametrize(("name", "size"), [("MediumVeRiWild", 5000), ("LargeVeRiWild", 10000), ("VeRiWild", 10000)])
@pytest.mark.parametrize("inside", ["", "_id"])
def test_each_protocol_has_its_lists_by_either_name(tmp_path, name, size, inside):
    lists = {key.replace("3000", f"{size}{inside}"): text for key, text in LISTS.items()}
    write(tmp_path / "VERI-Wild", lists=lists)
    dataset = load(name, tmp_path)
    assert (len(dataset.query), len(dataset.gallery)) == (1, 2)


def test_an_image_whose_camera_is_not_known_is_named(tmp_path):
    write(tmp_path / "VERI-Wild", info=INFO.replace("00007/000011;174", "00007/000011;"))
    with pytest.raises(DatasetError, match=r"no camera for 1 of 1 images of .*test_3000_query.txt, .* 00007/000011"):
        load("SmallVeRiWild", tmp_path)


def test_without_the_file_of_cameras_it_is_named(tmp_path):
    (write(tmp_path / "VERI-Wild") / "train_test_split/vehicle_info.txt").unlink()
    with pytest.raises(DatasetError, match=r"no list file .*vehicle_info.txt(.|\n)*vehicle_info.txt  "):
        load("SmallVeRiWild", tmp_path)
