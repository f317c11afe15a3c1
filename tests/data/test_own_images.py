"""A user's own images: CSV files and folders, and what is said of those that are wrong."""

import logging
from pathlib import Path

import pytest
from PIL import Image

from fastreid.config import get_cfg
from fastreid.data import build_datasets, build_reid_train_loader
from fastreid.data.datasets import DatasetError
from fastreid.evaluation.score import match_images
from tests.data.benchmarks.trees import labels, touch

PATHS = [f"img/{name}.jpg" for name in "abcdef"]


def read(name: str, root: Path):
    cfg = get_cfg()
    cfg.merge_from_list(["DATASETS.ROOT", str(root)])
    return build_datasets(cfg, [name])[0]


def table(root: Path, *rows: str) -> Path:
    touch(root, *PATHS)
    (root / "people.csv").write_text("\n".join(rows) + "\n")
    return root


def test_every_column(tmp_path):
    root = table(
        tmp_path,
        "path,person,camera,view,split",
        "img/a.jpg,7,2,aerial,train",
        "img/b.jpg,7,5,GROUND,train",
        "img/c.jpg,9,2,0,query",
        "img/d.jpg,9,5,1,gallery",
        '"img/e.jpg", -1 ,5,wearable,gallery',
    )
    dataset = read("csv:people.csv", root)
    assert dataset.name == "csv:people.csv"
    assert labels(dataset.train) == [(7, 2, 0), (7, 5, 1)]
    assert labels(dataset.query) == [(9, 2, 0)] and labels(dataset.gallery) == [(9, 5, 1), (-1, 5, 2)]
    assert dataset.train[0].path == str(root / "img/a.jpg")


def test_names_are_numbered_alike_in_every_split(tmp_path):
    root = table(
        tmp_path,
        "path,person,camera,split",
        *("img/a.jpg,zoe,street,query", "img/b.jpg,adam,roof,gallery", "img/c.jpg,zoe,roof,gallery"),
    )
    dataset = read("csv:people.csv", root)
    assert labels(dataset.query) == [(1, 1, 0)] and labels(dataset.gallery) == [(0, 0, 0), (1, 0, 0)]


def test_nobody_is_nobody_among_names_too(tmp_path):
    root = table(tmp_path, "path,person,split", "img/a.jpg,zoe,query", "img/b.jpg,-1,gallery", "img/c.jpg,zoe,gallery")
    dataset = read("csv:people.csv", root)
    assert [image.person for image in (*dataset.query, *dataset.gallery)] == [0, -1, 0]


def test_without_cameras_the_same_camera_rule_is_off_and_that_is_said(tmp_path, caplog):
    root = table(tmp_path, "path,person,split", "img/a.jpg,1,query", "img/b.jpg,1,gallery", "img/c.jpg,2,gallery")
    dataset = read("csv:people.csv", root)
    matches = match_images(dataset.query, dataset.gallery)
    assert matches.num_positives.tolist() == [1] and len(matches.removed) == 0
    assert "the same-camera rule is off" in caplog.text


def test_without_splits_everything_is_trained_on_by_config_alone(tmp_path):
    root = table(tmp_path, "path,person", *(f"{path},{i // 2}" for i, path in enumerate(PATHS)))
    for path in PATHS:
        Image.new("RGB", (8, 16)).save(root / path)
    cfg = get_cfg()
    cfg.merge_from_list(["DATASETS.NAMES", "('csv:people.csv',)", "DATASETS.ROOT", str(root)])
    cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", "4", "DATALOADER.NUM_WORKERS", "0", "MODEL.DEVICE", "cpu"])
    loader = build_reid_train_loader(cfg)
    assert loader.dataset.num_classes == 3
    assert next(iter(loader))["images"].shape == (4, 3, 256, 128)


def test_paths_to_the_file_itself_and_below_the_root(tmp_path, monkeypatch):
    root = table(tmp_path / "root", "path,person", "img/a.jpg,1")
    assert len(read(f"csv:{root}/people.csv", tmp_path).train) == 1
    monkeypatch.chdir(root)
    assert len(read("csv:people.csv", tmp_path).train) == 1
    with pytest.raises(DatasetError, match="csv:nothing.csv: there is no file .*root/nothing.csv nor .*nothing.csv"):
        read("csv:nothing.csv", tmp_path)
    with pytest.raises(DatasetError, match="'cvs:a' must be KIND:PATH; unknown kind 'cvs'; did you mean 'csv'"):
        read("cvs:a", tmp_path)


def test_people_in_train_and_test_are_told(tmp_path, caplog):
    root = table(tmp_path, "path,person,camera,split", "img/a.jpg,1,1,train", "img/b.jpg,1,2,query")
    read("csv:people.csv", root)
    assert "1 people are both trained on and tested" in caplog.text


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["file,person", "img/a.jpg,1"], "header of .*people.csv lacks path: it is file,person, expected path,person"),
        (["path,person,path", "img/a.jpg,1,x"], "names path twice"),
        (["path,person,camara", "img/a.jpg,1,2"], "has a column 'camara'; did you mean camera"),
        (["path,person"], "has a header and no rows"),
        (["path,person", "img/a.jpg"], "line 2: fewer values than the header has columns"),
        (["path,person", "img/a.jpg,1,2"], "line 2: more values than the header has columns"),
        (["path,person", "img/a.jpg,"], "no person .1 rows.: line 2: 'img/a.jpg'"),
        (["path,person,camera", "img/a.jpg,1,"], "no camera .1 rows.: line 2"),
        (["path,person,view", "img/a.jpg,1,top"], "view is not one of aerial, 0, ground, 1, .*line 2: 'top'"),
        (
            ["path,person,split", "img/a.jpg,1,tset"],
            "split is not one of train, .*: line 2: 'tset'",
        ),
        (
            ["path,person", "img/a.jpg,1", "img/x.jpg,1", "img/y.jpg,1"],
            r"no such image .2 rows.: line 3: 'img/x.jpg', line 4",
        ),
        (["path,person,split", "img/a.jpg,1,query", "./img/a.jpg,1,gallery"], "the same image again .1 rows.: line 3"),
        (["path,person", "people.csv,1"], "not named as one of .apng, .avif, .* .webp .1 rows."),
        (["path;person", "img/a.jpg;7"], "lacks path and person: .* separated by ';': save it with commas"),
        (["path,person", "img/a.jpg,1\0"], "line 2 has a byte of value 0"),
        (["path,person", "img/a.jpg,-7"], "person is below -1 .1 rows.: line 2: '-7'"),
        (["path,person,camid", "img/a.jpg,1,2"], "has a column 'camid'; did you mean camera"),
        (["path,person", "img/a.jpg,1", "img/a.jpg,2"], r"the same image again .1 rows.: line 3: 'img/a.jpg .line 2."),
        (["path,person", '"img/a.jpg,1'], "is not a CSV file in UTF-8"),
    ],
)
def test_wrong_tables(tmp_path, rows, said):
    with pytest.raises(DatasetError, match=said):
        read("csv:people.csv", table(tmp_path, *rows))


def test_other_columns_are_named_and_not_read(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    read("csv:people.csv", table(tmp_path, "path,person,weather", "img/a.jpg,1,rain"))
    assert "column 'weather' is not read" in caplog.text


def test_a_folder_per_person(tmp_path):
    touch(tmp_path / "flat", "bob/1.jpg", "bob/x/2.png", "eve/1.jpg")
    assert labels(read("folder:flat", tmp_path).train) == [(0, 0, 0), (0, 0, 0), (1, 0, 0)]
    touch(tmp_path / "split", "train/3/a.jpg", "query/5/b.jpg", "gallery/5/c.jpg", "gallery/6/d.jpg")
    dataset = read("folder:split", tmp_path)
    assert [i.person for i in (*dataset.train, *dataset.query, *dataset.gallery)] == [3, 5, 5, 6]
    assert match_images(dataset.query, dataset.gallery).num_positives.tolist() == [1]


def test_wrong_folders(tmp_path):
    touch(tmp_path / "astray", "bob/1.jpg", "2.jpg")
    with pytest.raises(DatasetError, match="1 images are not below .*astray/PERSON/, for example .*2.jpg"):
        read("folder:astray", tmp_path)
    with pytest.raises(DatasetError, match="'folder:' must be KIND:PATH"):
        read("folder:", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no images below .*empty/PERSON/"):
        read("folder:empty", tmp_path)
