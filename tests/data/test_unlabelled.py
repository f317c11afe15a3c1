"""A user's own images without person labels: how they are read, and what is said where labels are needed."""

from collections import Counter
from itertools import islice

import pytest
from PIL import Image

from fastreid.config import ConfigError, get_cfg
from fastreid.data import build_datasets, build_reid_train_loader
from fastreid.data.check import contact_sheet
from fastreid.data.datasets import DatasetError
from fastreid.evaluation import check_protocol
from tests.data.benchmarks.trees import labels, touch
from tests.miniature import run_tool

NAMES = [f"{number:02d}.png" for number in range(8)]


@pytest.fixture
def root(tmp_path):
    """Eight images in a folder, and tables of them with and without people."""
    home = tmp_path / "frames"
    home.mkdir()
    for number, name in enumerate(NAMES):
        Image.new("RGB", (8, 16), (30 * number, 0, 0)).save(home / name)
    tables = {
        "images.csv": ["path", *(f"frames/{name}" for name in NAMES)],
        "cameras.csv": ["path,camera", *(f"frames/{name},{'ab'[i % 2]}" for i, name in enumerate(NAMES))],
        "people.csv": ["path,person,camera", *(f"frames/{name},{i // 4},7" for i, name in enumerate(NAMES))],
    }
    for name, lines in tables.items():
        (tmp_path / name).write_text("\n".join(lines))
    return tmp_path


def config(root, *names, **keys):
    cfg = get_cfg()
    cfg.merge_from_list([
        *("DATASETS.ROOT", str(root), "DATASETS.NAMES", names, "DATALOADER.NUM_WORKERS", 0, "MODEL.DEVICE", "cpu"),
        *("SOLVER.IMS_PER_BATCH", 4, "INPUT.SIZE_TRAIN", [16, 8], "DATALOADER.NUM_INSTANCE", 2),
        *("DATALOADER.SAMPLER_TRAIN", "NaiveIdentitySampler"),
    ])  # fmt: skip
    cfg.merge_from_list([part for key, value in keys.items() for part in (key.replace("__", "."), value)])
    return cfg


def read(root, name):
    return build_datasets(config(root), [name])[0]


# Readers


@pytest.mark.parametrize("name", ["csv:images.csv", "folder:frames", "images:frames"])
def test_images_without_people_are_for_training_and_have_one_camera(root, name):
    dataset = read(root, name)
    assert dataset.unlabelled and labels(dataset.train) == [(-2, 0, 0)] * 8
    assert not dataset.query and not dataset.gallery and dataset.person_names == {}
    assert [(image.path, who) for image, who in dataset.training_people()] == [
        (str(root / "frames" / file), None) for file in NAMES
    ]


def test_cameras_of_a_table_are_kept(root):
    dataset = read(root, "csv:cameras.csv")
    assert [image.camera for image in dataset.train] == [0, 1] * 4 and dataset.camera_names == {0: "a", 1: "b"}


def test_all_images_below_a_folder(tmp_path, caplog):
    touch(tmp_path / "m", "1.jpg", "a/2.jpg", "a/b/3.png", "query/ann/4.jpg", "a/notes.txt")
    dataset = read(tmp_path, "images:m")
    assert labels(dataset.train) == [(-2, 0, 0)] * 4
    assert "the images in query are all trained on" in caplog.text and "skipped 1 files with other" in caplog.text
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no images below .*empty"):
        read(tmp_path, "images:empty")
    with pytest.raises(DatasetError, match="images:gone: there is no folder"):
        read(tmp_path, "images:gone")


def test_people_and_cameras_in_file_names_are_not_lost_silently(tmp_path, caplog):
    touch(tmp_path / "m", "0002_c1s1_000451_03.jpg", "other.jpg")
    with pytest.raises(DatasetError, match="of Market-1501's form: .* images:FOLDER reads all images"):
        read(tmp_path, "folder:m")
    assert len(read(tmp_path, "images:m").train) == 2
    assert "1 of 2 images are named PERSON_cCAMERA" in caplog.text
    assert "neither people nor cameras are read" in caplog.text


@pytest.mark.parametrize(
    "files",
    [("1.jpg", "ann/2.jpg"), ("train/1.jpg", "query/ann/2.jpg", "gallery/ann/3.jpg"), ("1.jpg", "train/a/2.jpg")],
)
def test_images_beside_people_are_an_error_with_a_hint(tmp_path, files):
    touch(tmp_path / "m", *files)
    with pytest.raises(DatasetError, match="1 images are not below .*PERSON/.*images:FOLDER reads all images below"):
        read(tmp_path, "folder:m")


@pytest.mark.parametrize("column", ["persn", "Persons", "pid", "id", "identity", "label", "person_id"])
def test_a_misspelt_person_column_is_no_table_without_labels(root, column):
    (root / "wrong.csv").write_text(f"path,{column}\nframes/00.png,1\n")
    said = f"column '{column.lower()}'; did you mean person.*without labels must not have such a column"
    with pytest.raises(DatasetError, match=said):
        read(root, "csv:wrong.csv")


@pytest.mark.parametrize("split", ["query", "gallery"])
def test_a_table_to_evaluate_on_needs_people(root, split):
    (root / "wrong.csv").write_text(f"path,split\nframes/00.png,train\nframes/01.png,{split}\n")
    with pytest.raises(DatasetError, match="query and gallery need a column person, .*line 3: 'frames/01.png'"):
        read(root, "csv:wrong.csv")


def test_images_without_labels_cannot_be_evaluated(root):
    with pytest.raises(
        ConfigError, match="csv:images.csv has no person labels .it has no column person.: it can be tr"
    ):
        check_protocol(read(root, "csv:images.csv"))


# Loaders


@pytest.mark.parametrize("names", [["csv:images.csv"], ["csv:people.csv", "images:frames"]])
def test_models_that_need_labels_are_not_trained_without(root, names):
    said = rf"DATASETS.NAMES has {names[-1]}, whose images have no person labels \(.*cluster_contrast.yml"
    with pytest.raises(ConfigError, match=said):
        build_reid_train_loader(config(root, *names))


@pytest.mark.parametrize("name", ["csv:images.csv", "csv:people.csv"])
def test_without_a_plan_all_images_are_drawn_equally_often_whatever_their_labels(root, name):
    cfg = config(root, name)  # people.csv has 2 people, and a batch by labels needs 4
    cfg.SOLVER.IMS_PER_BATCH = 8
    loader = build_reid_train_loader(cfg, needs_labels=False)
    drawn = Counter(index for batch in islice(loader, 5) for index in batch["indices"].tolist())
    assert set(drawn.values()) == {5} and len(drawn) == 8
    assert loader.dataset.num_classes == (2 if name == "csv:people.csv" else 0)


def test_a_plan_gives_labels_and_brings_the_sampler_back(root):
    loader = build_reid_train_loader(config(root, "csv:images.csv"), needs_labels=False)
    assert next(iter(loader))["targets"].tolist() == [-1] * 4 and loader.sampler.group_size == 2
    loader.set_plan(labels=[0, 0, 1, 1, -1, -1, -1, 1], num_batches=1)
    for batch in islice(loader, 6):
        assert batch["targets"].bincount().tolist() == [2, 2] and not {4, 5, 6} & set(batch["indices"].tolist())


def test_people_of_other_data_sets_keep_their_labels(root):
    Image.new("RGB", (8, 16)).save(root / "1.png")
    (root / "own.csv").write_text("path,person\n1.png,5\n")
    dataset = build_reid_train_loader(config(root, "csv:cameras.csv", "csv:own.csv"), needs_labels=False).dataset
    assert dataset.labels == [-1] * 8 + [0] and dataset.images[-1].camera == 2


def test_a_part_of_unknown_people_is_refused(root):
    cfg = config(root, "csv:images.csv", DATASETS__PEOPLE=[0.0, 0.5])
    with pytest.raises(ConfigError, match=r"DATASETS.PEOPLE \[0.0, 0.5\] .* those of csv:images.csv are not known"):
        build_reid_train_loader(cfg, needs_labels=False)


@pytest.mark.parametrize("combineall", [False, True])
def test_combineall_takes_the_people_of_query_and_gallery(root, combineall):
    lines = [
        "path,person,split",
        *(f"frames/{n},{i // 4},{s}" for i, n in enumerate(NAMES) for s in ("train", "query")),
    ]
    (root / "both.csv").write_text("\n".join(lines))
    cfg = config(root, "csv:both.csv", DATASETS__COMBINEALL=combineall)
    assert len(build_reid_train_loader(cfg, needs_labels=False).dataset) == 8 * (1 + combineall)


# The tool


def test_the_tool_says_that_there_are_no_labels(root):
    said = run_tool("tools/check_dataset.py", "csv:cameras.csv", "--read-images", cwd=root)
    assert "csv:cameras.csv: no person labels (it has no column person); it can be trained on by methods" in said
    assert said.splitlines()[3].split() == ["csv:cameras.csv", "train", "8", "-", "2"]
    assert contact_sheet(read(root, "csv:cameras.csv")).size == (64 + 2 * 68, 30 + 4 * 132)
