"""CARGO: names, protocols, and what a user with a wrong folder reads."""

from pathlib import Path

import pytest

from fastreid.data import benchmarks  # noqa: F401
from fastreid.data.benchmarks.cargo import read_cargo
from fastreid.data.datasets import DATASET_REGISTRY, DatasetError
from fastreid.structures import View
from tests.data.benchmarks.trees import load


def test_file_names():
    aerial = read_cargo(Path("train/Cam2/Cam2_day_2519_320.jpg"))
    assert (aerial.person, aerial.camera, aerial.view) == (2519, 1, View.AERIAL)
    assert read_cargo(Path("Cam5_night_1_1.jpg")).view == View.AERIAL
    ground = read_cargo(Path("Cam13_night_7_1.jpg"))
    assert (ground.person, ground.camera, ground.view) == (7, 12, View.GROUND)
    with pytest.raises(ValueError, match="is not CamN_TIME_PERSON_INDEX"):
        read_cargo(Path("0001_c3s1_000001.jpg"))


@pytest.fixture
def root(tmp_path):
    files = {
        "train": ["Cam1_day_1_1", "Cam6_day_1_2", "Cam7_night_2_3"],
        "query": ["Cam2_day_10_1", "Cam8_day_11_2"],
        "gallery": ["Cam3_day_10_3", "Cam9_day_10_4", "Cam1_night_11_5", "Cam13_day_11_6"],
    }
    for split, names in files.items():
        for name in names:
            folder = tmp_path / "CARGO" / split / name.split("_")[0]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.jpg").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("protocol", "query", "gallery"),
    [
        ("CARGO", [(10, 1), (11, 7)], [(11, 0), (11, 12), (10, 2), (10, 8)]),
        ("CARGO_AA", [(10, 1)], [(11, 0), (10, 2)]),
        ("CARGO_GG", [(11, 7)], [(11, 12), (10, 8)]),
        # The view is the camera: 0 aerial, 1 ground; all images stay as distractors.
        ("CARGO_AG", [(10, 0), (11, 1)], [(11, 0), (11, 1), (10, 0), (10, 1)]),
        # One-way: real cameras, and nothing of the query's own view in the gallery.
        ("CARGO_A2G", [(10, 1)], [(11, 12), (10, 8)]),
        ("CARGO_G2A", [(11, 7)], [(11, 0), (10, 2)]),
    ],
)
def test_protocols(root, protocol, query, gallery):
    dataset = load(protocol, root)
    assert dataset.name == protocol and len(dataset.train) == 3
    assert [(i.person, i.camera) for i in dataset.query] == query
    assert [(i.person, i.camera) for i in dataset.gallery] == gallery


def test_other_sizes_than_published_are_logged_in_a_sentence(root, caplog):
    load("CARGO", root)
    assert "CARGO, train: 3 images where 51,451 are published and 2 people where 2,500 are published" in caplog.text
    assert "gallery of CARGO: 4 images where 50,712 are published: the copy is incomplete" in caplog.text


def test_a_missing_folder_shows_the_expected_tree(tmp_path):
    with pytest.raises(DatasetError, match=r"there is no CARGO in .*FASTREID_DATASETS(.|\n)*CARGO/\n  train/"):
        load("CARGO", tmp_path)


def test_a_half_unpacked_folder_says_what_is_there(root):
    for path in (root / "CARGO" / "gallery").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(DatasetError, match="no images in .*gallery .*holds gallery, query, train"):
        load("CARGO", root)


def test_files_of_another_benchmark_are_counted_and_shown(root):
    (root / "CARGO" / "train" / "Cam1" / "0001_c1.jpg").touch()
    with pytest.raises(
        DatasetError, match="1 of 4 images in .*, train, have no CARGO file name, for example train/Cam1/0001_c1.jpg"
    ):
        load("CARGO", root)


def test_it_is_logged_once_per_folder_and_a_rendered_one_is_named_so(root, caplog):
    (root / "CARGO" / "render.json").touch()
    for protocol in ("CARGO", "CARGO_AG"):
        load(protocol, root)
    # Of three splits, by however many protocols.
    assert caplog.text.count("rendered stand-in") == 1


def test_evaluating_needs_no_training_images(root):
    for path in (root / "CARGO/train").rglob("*.jpg"):
        path.unlink()
    dataset = DATASET_REGISTRY.get("CARGO")(root=root)
    assert len(dataset.query) == 2 and len(dataset.gallery) == 4
    with pytest.raises(DatasetError, match="no images in .*train"):
        _ = dataset.train


@pytest.mark.parametrize("camera", [0, 14])
def test_a_fourteenth_camera_is_logged_and_skipped(root, camera, caplog):
    name = f"Cam{camera}_day_1_9.jpg"
    (root / "CARGO/train" / name).touch()
    assert len(load("CARGO", root).train) == 3
    assert f"train: 1 images skipped: Cam{camera}, where the benchmark has Cam1 to Cam13" in caplog.text
