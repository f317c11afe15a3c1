"""A user's own images: CSV files and folders, and what is said of those that are wrong."""

import logging
import os
from pathlib import Path

import pytest
from PIL import Image

from fastreid.config import ConfigError, get_cfg
from fastreid.data import build_datasets, build_reid_train_loader
from fastreid.data.datasets import DatasetError
from fastreid.retrieval.matches import match_images
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
        (["path,person,cam_id", "img/a.jpg,1,2"], "has a column 'cam_id'; did you mean camera"),
        (
            ["path,person,fold", "img/a.jpg,1,query", "img/b.jpg,1,Gallery"],
            "has a column 'fold' with the values Gallery, query; did you mean split, .* for training otherwise",
        ),
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
    (tmp_path / "split").mkdir()
    assert read("csv:people.csv", table(tmp_path / "split", "path,person,split,from", "img/a.jpg,1,train,test")).train
    (tmp_path / "fold").mkdir()
    assert read("csv:people.csv", table(tmp_path / "fold", "path,person,fold", "img/a.jpg,1,train")).train


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
    with pytest.raises(DatasetError, match="'folder:' has no path after folder:"):
        read("folder:", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no images below .*empty/PERSON/"):
        read("folder:empty", tmp_path)


# Names

# The file systems and the tables of users have all of these; int() takes the two of a pair for one number.
ALIKE = [("1_11", "11_1"), ("007", "7"), ("+1", "1"), ("٧", "7"), ("-01", "-1"), ("1_1", "11"), ("12_3", "123")]


@pytest.mark.parametrize("pair", ALIKE)
def test_folders_whose_names_differ_are_different_people(tmp_path, pair, caplog):
    touch(tmp_path / "p", *(f"{name}/{number}.jpg" for name in pair for number in range(3)))
    dataset = read("folder:p", tmp_path)
    assert len({image.person for image in dataset.train}) == 2 and min(image.person for image in dataset.train) == 0
    assert len(dataset.training_people()) == 6
    assert {dataset.person_names[image.person] for image in dataset.train} == set(pair)
    assert all(Path(image.path).parent.name == dataset.person_names[image.person] for image in dataset.train)
    assert f"people whose names differ in spelling only are different people: {sorted(pair)[0]!r} and" in caplog.text


@pytest.mark.parametrize("pair", [pair for pair in ALIKE if "-1" not in pair])
def test_people_and_cameras_of_tables_whose_names_differ_are_different(tmp_path, pair):
    rows = [f"img/{letter}.jpg,{name},{name}" for letter, name in zip("ab", pair, strict=True)]
    dataset = read("csv:people.csv", table(tmp_path, "path,person,camera", *rows))
    assert len({image.person for image in dataset.train}) == len({image.camera for image in dataset.train}) == 2
    first, second = dataset.train
    assert (dataset.person_names[first.person], dataset.camera_names[second.camera]) == pair


def test_one_name_that_is_no_number_makes_names_of_all(tmp_path):
    huge = "20240131000000000000000"
    dataset = read("csv:people.csv", table(tmp_path, "path,person", f"img/a.jpg,{huge}", "img/b.jpg,7"))
    assert [image.person for image in dataset.train] == [0, 1] and dataset.person_names == {0: huge, 1: "7"}


def test_numbers_are_their_own_ids_and_need_no_names(tmp_path):
    root = table(tmp_path, "path,person,camera", "img/a.jpg,9223372036854775807,3", "img/b.jpg,-1,0", "img/c.jpg,0,12")
    dataset = read("csv:people.csv", root)
    assert labels(dataset.train) == [(2**63 - 1, 3, 0), (-1, 0, 0), (0, 12, 0)]
    assert dataset.person_names == dataset.camera_names == {}


def test_only_the_very_text_minus_one_is_no_person_and_only_in_tables(tmp_path, caplog):
    root = table(tmp_path / "t", "path,person,camera", *("img/a.jpg,-1,-1", "img/b.jpg,-01,x", "img/c.jpg,-ann,x"))
    dataset = read("csv:people.csv", root)
    assert labels(dataset.train) == [(-1, 0, 0), (0, 1, 0), (1, 1, 0)]
    touch(tmp_path / "f", "-1/a.jpg", "5/a.jpg")
    dataset = read("folder:f", tmp_path)
    assert len(dataset.training_people()) == 2 and dataset.person_names == {0: "-1", 1: "5"}
    assert "the folder -1 is read as a person's; images of no person are for csv:FILE" in caplog.text


def test_spaces_around_a_value_are_not_part_of_it_and_that_is_said_where_it_matters(tmp_path, caplog):
    root = table(tmp_path, "path,person", 'img/a.jpg,"ann "', "img/b.jpg, ann", "img/c.jpg,ann\t", "img/d.jpg,an n")
    dataset = read("csv:people.csv", root)
    assert [image.person for image in dataset.train] == [1, 1, 1, 0]
    assert "spaces around a person's name are not part of it" in caplog.text
    assert r"read as the same person as without: 'ann\t', 'ann '" in caplog.text


def test_other_white_space_is_part_of_a_name(tmp_path):
    root = table(tmp_path, "path,person", "img/a.jpg,ann", "img/b.jpg,ann\u00a0", 'img/c.jpg,"ann\n"')
    assert len({image.person for image in read("csv:people.csv", root).train}) == 3


def test_the_same_place_by_two_names_is_trained_on_once(tmp_path):
    root = table(tmp_path, "path,person", "img/a.jpg,1")
    cfg = get_cfg()
    cfg.merge_from_list(["DATASETS.NAMES", "('csv:people.csv', 'csv:./img/../people.csv')", "DATASETS.ROOT", str(root)])
    with pytest.raises(ConfigError, match="which train on the same people; name one of them"):
        build_reid_train_loader(cfg)


def test_files_of_two_data_sets_are_trained_on_once(tmp_path):
    touch(tmp_path / "m", "ann/1.jpg", "bob/1.jpg")
    (tmp_path / "link").symlink_to("m")
    root = table(tmp_path, "path,person", "link/ann/1.jpg,7", "link/bob/1.jpg,8")
    cfg = get_cfg()
    cfg.merge_from_list(["DATASETS.NAMES", "('folder:m', 'csv:people.csv')", "DATASETS.ROOT", str(root)])
    with pytest.raises(
        ConfigError, match="2 training images of csv:people.csv are also in folder:m, such as .*ann/1.jpg"
    ):
        build_reid_train_loader(cfg)


def test_a_link_to_a_query_is_no_gallery_image(tmp_path):
    root = table(tmp_path, "path,person,split", "img/a.jpg,1,query", "img/link.jpg,1,gallery")
    (root / "img/link.jpg").unlink(missing_ok=True)
    (root / "img/link.jpg").symlink_to("a.jpg")
    with pytest.raises(DatasetError, match=r"the same image again .1 rows.: line 3: 'img/link.jpg .line 2."):
        read("csv:people.csv", root)


# Text


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_line_ends_and_encodings(tmp_path, end, encoding):
    root = table(tmp_path, "")
    text = end.join(["path,person", "img/a.jpg,zoë", "", "img/b.jpg,ann", ""])
    (root / "people.csv").write_bytes(text.encode(encoding))
    assert [image.person for image in read("csv:people.csv", root).train] == [1, 0]


def test_a_table_in_another_encoding_is_refused_by_place(tmp_path):
    root = table(tmp_path, "")
    (root / "people.csv").write_bytes("path,person\nimg/a.jpg,zoë\n".encode("latin-1"))
    with pytest.raises(DatasetError, match=r"people.csv is not text in UTF-8: byte 0xeb at position 24 .line 2."):
        read("csv:people.csv", root)


def test_paths_that_the_system_refuses_are_told_by_line(tmp_path):
    root = table(tmp_path, "path,person", f"img/{'x' * 300}.jpg,1", "img\\a.jpg,1")
    with pytest.raises(DatasetError, match=r"cannot look at the image .File name too long. .1 rows.: line 2") as error:
        read("csv:people.csv", root)
    assert "no such image (folders are separated by /) (1 rows): line 3" in str(error.value)


# Places


@pytest.mark.parametrize("name", ["folder:people", "folder:./people/", "csv:people/table.csv"])
@pytest.mark.parametrize("below_root", [True, False])
def test_relative_names_give_paths_that_are_there(tmp_path, monkeypatch, name, below_root):
    home = tmp_path / "a" / "people"
    touch(home, *(f"{split}/{person}/1.jpg" for split in ("train", "query", "gallery") for person in ("ann", "bob")))
    rows = [f"{path.relative_to(home)},{path.parent.name},{path.parents[1].name}" for path in home.rglob("*.jpg")]
    (home / "table.csv").write_text("\n".join(["path,person,split", *rows]))
    here, root = (tmp_path, "a") if below_root else (tmp_path / "a", "nowhere")
    monkeypatch.chdir(here)
    dataset = read(name, Path(root))
    for split in ("train", "query", "gallery"):
        paths = [Path(image.path) for image in getattr(dataset, split)]
        assert len(paths) == 2 and all(path.is_absolute() and path.is_file() for path in paths)
        assert all(path.parent.parent.name == split for path in paths)


# Layouts that could be read in another way


def test_every_kind_of_picture_is_a_persons(tmp_path):
    touch(tmp_path / "m", "ann/1.webp", "ann/2.tif", "ann/3.jfif", "bob/1.jpg", "bob/notes.txt", "bob/clip.mp4")
    assert labels(read("folder:m", tmp_path).train) == [(0, 0, 0)] * 3 + [(1, 0, 0)]


def test_what_a_folder_holds_beside_pictures_is_counted(tmp_path, caplog):
    touch(tmp_path / "m", "ann/1.jpg", "bob/notes.txt", "bob/clip.mp4", "carl/gone.txt")
    (tmp_path / "m/empty").mkdir()
    read("folder:m", tmp_path)
    assert "skipped 3 files with other suffixes: .mp4 (1), .txt (2)" in caplog.text
    assert "3 folders hold no images: bob, carl, empty" in caplog.text


def test_people_beside_train_are_not_left_out(tmp_path):
    touch(tmp_path / "m", "train/ann/1.jpg", "bob/1.jpg", "bob/2.jpg")
    with pytest.raises(DatasetError, match="2 images are not below .*bob/1.jpg.*has a folder train, query or gallery"):
        read("folder:m", tmp_path)


def test_files_of_market_1501_are_answered_with_its_name(tmp_path, caplog):
    touch(tmp_path / "m", "0002_c1s1_000451_03.jpg")
    with pytest.raises(DatasetError, match=r"Market-1501's form: name the benchmark itself .Market1501., or list them"):
        read("folder:m", tmp_path)
    touch(tmp_path / "n", "0002/0002_c1s1_000451_03.jpg", "0002/a.jpg")
    read("folder:n", tmp_path)
    assert "1 of 2 images are named PERSON_cCAMERA… as in Market-1501, for example 0002/0002_c1s1" in caplog.text


def test_deeper_folders_and_folders_named_like_splits_are_told(tmp_path, caplog):
    touch(tmp_path / "m", "Train/ann/1.jpg", "Train/bob/1.jpg", "Test/ann/2.jpg")
    assert len({image.person for image in read("folder:m", tmp_path).train}) == 2
    assert "the folders Test, Train are read as people" in caplog.text
    assert "3 of 3 images are in deeper folders than PERSON/, for example Test/ann/2.jpg, read as an" in caplog.text


@pytest.mark.parametrize(("there", "absent"), [("query", "gallery"), ("gallery", "query")])
def test_half_a_protocol_is_told(tmp_path, caplog, there, absent):
    touch(tmp_path / "m", f"{there}/ann/1.jpg")
    read("folder:m", tmp_path)
    assert f"has {there} images and no {absent} images: it cannot be evaluated" in caplog.text


def test_splits_may_be_links_to_the_same_folder(tmp_path, caplog):
    touch(tmp_path / "m", "gallery/ann/1.jpg")
    (tmp_path / "m/query").symlink_to("gallery")
    dataset = read("folder:m", tmp_path)
    assert len(dataset.query) == len(dataset.gallery) == 1
    assert "1 images are both in query and in gallery: each finds itself" in caplog.text


def test_names_that_are_not_utf_8(tmp_path):
    for name in (b"\xff/1.jpg", b"\xe9/\xff.jpg"):
        path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"m", name)))
        touch(path.parent, path.name)
    dataset = read("folder:m", tmp_path)
    assert set(dataset.person_names.values()) == set(map(os.fsdecode, (b"\xff", b"\xe9")))
    assert all(Path(image.path).is_file() for image in dataset.train)


def test_two_levels_of_folders_may_be_camera_and_person(tmp_path, caplog):
    touch(tmp_path / "photos", *(f"{camera}/{person}/1.jpg" for camera in ("door", "gate") for person in "abc"))
    with caplog.at_level(logging.WARNING):
        read("folder:photos", tmp_path)
    assert "read as an image of 'door'; did you mean camera/person? python tools/make_table.py --root" in caplog.text
    assert '--pattern "{camera}/{person}/{name}" --output people.csv' in caplog.text
