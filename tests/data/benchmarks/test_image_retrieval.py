"""CUB, Cars, SOP and In-Shop: their lists, who is in a gallery, wrong files, and a whole run with Recall@k."""

import json
import shlex

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from fastreid.data.benchmarks.image_retrieval import RETRIEVAL_SETS
from fastreid.data.datasets import DatasetError
from fastreid.retrieval.matches import match_images
from tests.data.benchmarks.trees import labels, load, touch
from tests.miniature import ROOT, run_tool
from tests.pages import TEXTS, blocks

PAGE = "docs/retrieval.md"


def cub(root, classes=(1, 100, 101, 200), each=2):
    home = root / "CUB_200_2011"
    names = [f"{number:03}.Bird/bird_{number}_{image}.jpg" for number in classes for image in range(each)]
    touch(home, *(f"images/{name}" for name in names))
    (home / "images.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(names, 1)))
    lines = (f"{i} {int(name[:3])}\n" for i, name in enumerate(names, 1))
    (home / "image_class_labels.txt").write_text("".join(lines))
    return home


def cars(root):
    home = touch(root / "Cars196", *(f"car_ims/{number:06}.jpg" for number in range(1, 7)))
    kind = [("relative_im_path", "O"), ("bbox_x1", "O"), ("class", "O"), ("test", "O")]
    rows = [(f"car_ims/{i:06}.jpg", 5, label, 0) for i, label in enumerate((1, 98, 98, 99, 99, 196), 1)]
    savemat(home / "cars_annos.mat", {"annotations": np.array(rows, dtype=kind)})
    return home


def products(root):
    home = root / "Stanford_Online_Products"
    touch(home, *(f"bicycle_final/{name}.JPG" for name in "abcde"))
    header = "image_id class_id super_class_id path\n"
    (home / "Ebay_train.txt").write_text(f"{header}1 1 1 bicycle_final/a.JPG\n2 1 1 bicycle_final/b.JPG\n")
    lines = "".join(
        f"{i} {label} 1 bicycle_final/{name}.JPG\n" for i, label, name in ((3, 7, "c"), (4, 7, "d"), (5, 8, "e"))
    )
    (home / "Ebay_test.txt").write_text(header + lines)
    return home


def in_shop(root, place="Eval"):
    home = root / "In-shop"
    rows = [("train", 2, "a"), ("query", 5, "b"), ("gallery", 5, "c"), ("gallery", 6, "d")]
    names = [(f"img/WOMEN/Dresses/id_{item:08}/{name}.jpg", item, split) for split, item, name in rows]
    touch(home, *(f"Img/{name}" for name, _, _ in names))
    (home / place).mkdir(exist_ok=True)
    lines = "".join(f"{name}    id_{item:08}  {split}\n" for name, item, split in names)
    (home / place / "list_eval_partition.txt").write_text(f"4\nimage_name item_id evaluation_status\n{lines}")
    return home


MAKERS = {"CUB": cub, "CARS": cars, "SOP": products, "InShop": in_shop}


def test_the_second_half_of_the_birds_is_tested(tmp_path):
    cub(tmp_path)
    dataset = load("CUB", tmp_path)
    assert labels(dataset.train) == [(1, 0, 1), (1, 0, 1), (100, 0, 1), (100, 0, 1)]
    assert labels(dataset.query) == [(101, 0, 1), (101, 1, 1), (200, 2, 1), (200, 3, 1)] == labels(dataset.gallery)


def test_the_second_half_of_the_cars_is_tested(tmp_path):
    cars(tmp_path)
    dataset = load("CARS", tmp_path)
    assert [image.person for image in dataset.train] == [1, 98, 98]
    assert labels(dataset.query) == [(99, 0, 1), (99, 1, 1), (196, 2, 1)] == labels(dataset.gallery)
    assert dataset.query[0].path.endswith("car_ims/000004.jpg")


def test_products_have_two_lists(tmp_path):
    products(tmp_path)
    dataset = load("SOP", tmp_path)
    assert [image.person for image in dataset.train] == [1, 1]
    assert labels(dataset.query) == [(7, 0, 1), (7, 1, 1), (8, 2, 1)] == labels(dataset.gallery)


@pytest.mark.parametrize("place", ["Eval", "."])
def test_clothes_have_queries_and_a_gallery(tmp_path, place):
    in_shop(tmp_path, place)
    dataset = load("InShop", tmp_path)
    assert labels(dataset.train) == [(2, 0, 1)] and labels(dataset.query) == [(5, 0, 1)]
    assert labels(dataset.gallery) == [(5, 1, 1), (6, 1, 1)]
    assert match_images(dataset.query, dataset.gallery).num_positives.tolist() == [1]


def test_a_query_does_not_find_itself(tmp_path):
    cub(tmp_path, each=3)
    dataset = load("CUB", tmp_path)
    matches = match_images(dataset.query, dataset.gallery)
    assert matches.num_positives.tolist() == [2] * 6
    assert matches.num_valid_gallery.tolist() == [5] * 6


@pytest.mark.parametrize("name", MAKERS)
def test_missing_files_and_images_are_named(tmp_path, name, caplog):
    with pytest.raises(DatasetError, match=f"{name}: .*Expected below DATASETS.ROOT"):
        load(name, tmp_path)
    home = MAKERS[name](tmp_path)
    assert load(name, tmp_path).train and "are published" in caplog.text
    gone = next(path for path in sorted(home.rglob("*")) if path.suffix.lower() == ".jpg")
    gone.unlink()
    with pytest.raises(DatasetError, match=rf"{name}: 1 of \d train images in .* are missing: .*{gone.name}"):
        load(name, tmp_path)


def test_lines_of_another_form_are_shown(tmp_path):
    home = cub(tmp_path)
    (home / "image_class_labels.txt").write_text("1 1\n2\n")
    with pytest.raises(DatasetError, match="1 of 2 lines of .*image_class_labels.txt do not have 2 words.*'2'"):
        load("CUB", tmp_path)
    (home / "image_class_labels.txt").write_text("1 1\n99 1\n")
    with pytest.raises(DatasetError, match="has image 99, which images.txt does not name"):
        load("CUB", tmp_path)
    (home / "image_class_labels.txt").write_text("1 one\n")
    with pytest.raises(DatasetError, match="has 'one' where a whole number is expected"):
        load("CUB", tmp_path)
    home = in_shop(tmp_path)
    text = (home / "Eval/list_eval_partition.txt").read_text()
    (home / "Eval/list_eval_partition.txt").write_text(text.replace("query", "val"))
    with pytest.raises(DatasetError, match="has the split 'val'; expected train, query or gallery"):
        load("InShop", tmp_path)
    (home / "Eval/list_eval_partition.txt").write_text(text.replace("query", "train"))
    with pytest.raises(DatasetError, match="name no query images"):
        load("InShop", tmp_path)


@pytest.mark.parametrize("content", [b"", b"no such file" * 20, "other"])
def test_another_file_in_the_place_of_the_annotations(tmp_path, content):
    home = cars(tmp_path)
    if content == "other":
        savemat(home / "cars_annos.mat", {"classes": np.arange(3)})
    else:
        (home / "cars_annos.mat").write_bytes(content)
    with pytest.raises(DatasetError, match="cars_annos.mat is not the file of Cars-196"):
        load("CARS", tmp_path)


@pytest.mark.parametrize("label", ["AM General", np.zeros((0, 0)), np.arange(2)])
def test_annotations_of_another_form(tmp_path, label):
    home, kind = cars(tmp_path), [("relative_im_path", "O"), ("class", "O")]
    rows = [("car_ims/000001.jpg", 1), ("car_ims/000002.jpg", label), ("car_ims/000003.jpg", 99)]
    savemat(home / "cars_annos.mat", {"annotations": np.array(rows, dtype=kind)})
    with pytest.raises(DatasetError, match="cars_annos.mat is not the file of Cars-196"):
        load("CARS", tmp_path)
    savemat(home / "cars_annos.mat", {"annotations": np.array(rows[:1], dtype=kind)})
    with pytest.raises(DatasetError, match="name no test images"):
        load("CARS", tmp_path)


def test_cars_have_a_second_name(tmp_path):
    cars(tmp_path).rename(tmp_path / "Cars_196")
    assert labels(load("Cars196", tmp_path).query) == labels(load("CARS", tmp_path).query)


def test_lists_without_a_header_lose_no_image(tmp_path):
    for file, header in (
        *((products(tmp_path) / f"Ebay_{split}.txt", 1) for split in ("train", "test")),
        (in_shop(tmp_path) / "Eval/list_eval_partition.txt", 2),
    ):
        file.write_text("".join(file.read_text().splitlines(keepends=True)[header:]))
    dataset = load("SOP", tmp_path)
    assert (len(dataset.train), len(dataset.query)) == (2, 3)
    dataset = load("InShop", tmp_path)
    assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == (1, 1, 2)


@pytest.mark.parametrize(
    ("name", "file"),
    [("CUB", "image_class_labels.txt"), ("SOP", "Ebay_test.txt"), ("InShop", "Eval/list_eval_partition.txt")],
)
def test_an_image_that_is_listed_twice_is_refused(tmp_path, name, file):
    path = MAKERS[name](tmp_path) / file
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")
    with pytest.raises(DatasetError, match=f"{name}: .* name 1 images more than once.*would find itself"):
        load(name, tmp_path)


def test_a_class_that_is_no_number_of_64_bits_is_refused(tmp_path):
    path = products(tmp_path) / "Ebay_test.txt"
    path.write_text(path.read_text().replace(" 8 1 ", f" {10**20} 1 "))
    with pytest.raises(DatasetError, match=f"has '{10**20}' where a whole number is expected"):
        load("SOP", tmp_path)


def test_the_trees_of_the_page_are_those_of_the_messages():
    assert [each.name for each in RETRIEVAL_SETS if f"```\n{each.layout}\n```" not in TEXTS[PAGE]] == []
    numbers = [f"{size:,}" for each in RETRIEVAL_SETS for split, size in each.sizes.items() if split != "train"]
    assert [number for number in numbers if number not in TEXTS[PAGE]] == []


SMALL = [
    *shlex.split("MODEL.DEVICE cpu MODEL.BACKBONE.NAME build_timm_backbone MODEL.BACKBONE.TIMM_NAME test_vit"),
    *shlex.split("MODEL.BACKBONE.PRETRAIN False MODEL.HEADS.POOL_LAYER GlobalAvgPool SOLVER.AMP.ENABLED False"),
    *("INPUT.SIZE_TRAIN", "[40, 40]", "INPUT.SIZE_TEST", "[40, 40]", "INPUT.CROP.SIZE", "[32, 32]"),
    *shlex.split("DATALOADER.NUM_WORKERS 0 SOLVER.IMS_PER_BATCH 16 SOLVER.MAX_EPOCH 2 SOLVER.ITERS_PER_EPOCH 2"),
    *shlex.split("DATASETS.ROOT . TEST.REPORT False"),
]


def test_the_commands_of_the_page_run(tmp_path):
    home, draw = cub(tmp_path, classes=(1, 2, 3, 4, 101, 102, 103), each=4), np.random.default_rng(0)
    for path in (home / "images").rglob("*.jpg"):
        Image.fromarray(draw.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for command in "\n".join(blocks(TEXTS[PAGE], "bash")).splitlines():
        _, tool, *words = shlex.split(command)
        run_tool(tool, *words, *SMALL, cwd=tmp_path)
    trained, again = (
        json.loads((tmp_path / f"logs/retrieval/cub/{name}results.json").read_text())["CUB"]
        for name in ("", "evaluated/")
    )
    assert trained["valid_queries"] == 12 and trained["Recall@1"] == trained["Rank-1"]
    assert {name: again[name] for name in trained} == trained
    assert [again[f"Recall@{k}"] for k in (16, 32)] == [100.0, 100.0]  # eleven others, three of the class
