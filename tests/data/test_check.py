"""What check_dataset shows: counts beside the published ones, valid queries, unreadable images, a contact sheet."""

import os

import pytest
from PIL import Image

from fastreid.config import get_cfg
from fastreid.data import build_feature_loader
from fastreid.data.check import (
    check_first_images,
    contact_sheet,
    counts_table,
    list_checksums,
    protocols_named,
    unreadable,
    with_distinct_training,
)
from fastreid.data.datasets import ImageDataset
from fastreid.data.images import ImageReadError
from fastreid.data.own_images import read_folders
from fastreid.engine.summary import valid_queries_table
from fastreid.structures import PersonImage
from tests.data.benchmarks.attribute_files import write_pa100k
from tests.data.benchmarks.trees import load, touch
from tests.miniature import ROOT, run_tool


def rows(table):
    return [line.split() for line in table.splitlines()][2:]


@pytest.fixture
def cargo(tmp_path):
    home = tmp_path / "CARGO"
    for split, names in {
        "train": ["Cam1_day_1_1", "Cam6_day_1_2"],
        "query": ["Cam2_day_10_1", "Cam7_day_11_2"],
        "gallery": ["Cam3_day_10_3", "Cam9_day_12_4"],
    }.items():
        for name in names:
            path = home / split / name.split("_")[0] / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 40), "red").save(path)
    return tmp_path


def test_counts_stand_beside_the_published_ones(cargo):
    protocols = [load(name, cargo) for name in ("CARGO", "CARGO_AG")]
    assert rows(counts_table(protocols[:1], protocols)) == [
        ["CARGO", "train", "2", "51,451", "1", "2,500", "2", "aerial,", "ground"],
        ["CARGO", "query", "2", "312", "2", "-", "2", "aerial,", "ground"],
        ["CARGO", "gallery", "2", "50,712", "2", "-", "2", "aerial,", "ground"],
        ["CARGO_AG", "query", "2", "312", "2", "-", "2", "aerial,", "ground"],
        ["CARGO_AG", "gallery", "2", "50,712", "2", "-", "2", "aerial,", "ground"],
    ]
    assert rows(valid_queries_table(protocols)) == [
        ["CARGO", "2", "1", "312"],
        ["CARGO_AG", "2", "0", "160"],
    ]


def test_twins_are_shown_from_both_sides(tmp_path):
    home = tmp_path / "AG-ReID"
    for folder, camera in (("query_all_c0", 0), ("bounding_box_test_all_c3", 3), ("bounding_box_train", 0)):
        touch(home, f"{folder}/P0006T02140A0C{camera}F1.jpg")
    both = [load(name, tmp_path) for name in ("AG_ReID_v1", "AG_ReID_v1_AG")]
    assert [row[:2] for row in rows(valid_queries_table(both))] == [
        ["AG_ReID_v1", "AG_ReID_v1_AG"],
        ["AG_ReID_v1_AG", "AG_ReID_v1"],
    ]


def test_training_images_are_shown_once_unless_protocols_have_their_own(tmp_path):
    named = {name: ImageDataset([], [], [], name) for name in ("CARGO", "CARGO_AG", "Mine")}
    named |= {name: ImageDataset([PersonImage("a", 1, 1)], [], [], name) for name in protocols_named("CUHK03")}
    shown = with_distinct_training(named.values())
    assert [d.name for d in shown] == ["CARGO", "Mine", *protocols_named("CUHK03")]
    assert rows(counts_table(shown[-1:], []))[0][:6] == ["CUHK03_classic_detected", "train", "1", "1", "1,367", "1"]


def test_other_data_sets_have_nothing_published_and_nobody_is_counted_apart():
    mine = ImageDataset([PersonImage("a", 1, 1), PersonImage("b", -1, 2, 7)], [], [], "Mine")
    assert rows(counts_table([mine], []))[0] == ["Mine", "train", "1", "1", "1", "2", "aerial,", "7"]


def test_columns_without_values_are_left_out():
    """Images without views, of no benchmark: there are no published counts, and the default view has no meaning."""
    mine = ImageDataset([PersonImage("a", 1, 1)], [PersonImage("b", 2, 1)], [PersonImage("c", 2, 2)], "Mine")
    assert counts_table([mine], [mine]).splitlines()[0].split() == "data set split images people cameras".split()
    assert valid_queries_table([mine]).splitlines()[0].split() == ["protocol", "queries", "with", "a", "match"]
    assert counts_table([], []).split()[:2] == ["data", "set"]


def test_list_files_are_summed_whatever_their_line_ends(tmp_path):
    home = tmp_path / "G2APS-ReID"
    sums = []
    for end in ("\n", "\r\n"):
        touch(home)
        home.mkdir(exist_ok=True)
        for name in ("exp3_A2G+.txt", "exp4_G2A+.txt"):
            (home / name).write_bytes(f"query/a{end}test/b{end}".encode())
        sums.append(list_checksums(protocols_named("G2APS_ReID"), str(tmp_path)))
    assert sums[0] == sums[1] and sums[0].count("exp") == 2
    assert list_checksums(["CARGO"], str(tmp_path)) == ""


def test_unreadable_images_are_named(cargo):
    broken = cargo / "CARGO/query/Cam2/Cam2_day_10_1.jpg"
    broken.write_bytes(broken.read_bytes()[:100])
    (sentence,) = unreadable([load("CARGO", cargo)])
    assert sentence.startswith(f"cannot read image {broken}")


def test_the_contact_sheet_has_a_row_per_person_and_a_column_per_camera(cargo):
    sheet = contact_sheet(load("CARGO", cargo))
    assert sheet.size == (64 + 6 * 68, 30 + 4 * 132)
    assert sheet.getpixel((64 + 10, 30 + 20)) != (255, 255, 255)


# What a dry run opens


def loaded(images):
    return build_feature_loader(cpu_cfg(), images)


def cpu_cfg(*keys):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0", *keys])
    return cfg


@pytest.mark.parametrize(
    ("split", "name"),
    [("train", "Cam1/Cam1_day_1_1"), ("query", "Cam2/Cam2_day_10_1"), ("gallery", "Cam3/Cam3_day_10_3")],
)
def test_the_first_image_of_every_split_is_decoded(cargo, split, name, caplog):
    dataset = load("CARGO", cargo)
    check_first_images([dataset], [dataset], loaded)
    broken = cargo / f"CARGO/{split}/{name}.jpg"
    broken.write_bytes(b"no picture")
    with pytest.raises(
        ImageReadError, match=f"^CARGO, first image of {split}: cannot read image {broken}: not an image"
    ):
        check_first_images([dataset], [dataset], loaded)
    skip = cpu_cfg("DATALOADER.BAD_IMAGES", "skip")
    check_first_images([dataset], [dataset], lambda images: build_feature_loader(skip, images))
    assert f"skipping image {broken}" in caplog.text


def test_a_split_without_images_has_no_first():
    check_first_images([], [ImageDataset([], [], [], "Mine")], loaded)


def test_the_contact_sheet_shows_names_that_can_be_drawn(tmp_path):
    for name in ("ann", "\u674e", os.fsdecode(b"\xff"), "a\nb"):
        path = tmp_path / "p" / name / "1.jpg"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (20, 40), "red").save(path)
    assert contact_sheet(read_folders(tmp_path / "p")).size == (64 + 68, 30 + 4 * 132)


# The tool


def test_the_tool_counts_people_by_their_names_and_tells_what_was_skipped(tmp_path, caplog):
    for name in ("1_11", "11_1", "007", "7"):
        (tmp_path / "p" / name).mkdir(parents=True)
        Image.new("RGB", (16, 32)).save(tmp_path / "p" / name / "1.webp")
    touch(tmp_path / "p", "7/notes.txt")
    said = run_tool("tools/check_dataset.py", "folder:p", cwd=tmp_path)
    assert rows(said[said.index("data set") :])[0][:4] == ["folder:p", "train", "4", "4"]
    assert "skipped 1 files with other suffixes: .txt (1)" in caplog.text


def test_the_sheet_of_a_long_path_has_a_name(tmp_path):
    folder = tmp_path / ("a" * 120) / ("b" * 120)
    folder.mkdir(parents=True)
    Image.new("RGB", (16, 32)).save(folder / "1.png")
    said = run_tool("tools/check_dataset.py", f"images:{folder}", cwd=tmp_path)
    (sheet,) = (tmp_path / "logs/check_dataset").iterdir()
    assert f"contact sheet: logs/check_dataset/{sheet.name}" in said and sheet.stem.endswith("bbb")


def test_the_tool_shows_all_of_it(cargo, tmp_path):
    sheet = tmp_path / "sheet.jpg"
    keys = ["--contact-sheet", str(sheet), "DATASETS.ROOT", str(cargo)]
    said = run_tool("tools/check_dataset.py", "CARGO", "--read-images", *keys, cwd=tmp_path)
    assert "51,451" in said and "every image can be read" in said and "CARGO_A2G" in said
    assert Image.open(sheet).width > 64


def test_the_tool_fails_where_images_do_and_explains_wrong_names(cargo, tmp_path):
    (cargo / "CARGO/query/Cam2/Cam2_day_10_1.jpg").write_bytes(b"")
    root = ["DATASETS.ROOT", str(cargo)]
    sheet = ["--contact-sheet", str(tmp_path / "sheet.jpg")]
    with pytest.raises(SystemExit, match="^1$"):
        run_tool("tools/check_dataset.py", "CARGO", "--read-images", *sheet, *root, cwd=tmp_path)
    assert (tmp_path / "sheet.jpg").exists()  # with a cross in its cell
    assert "contact sheet" in run_tool("tools/check_dataset.py", "CARGO", *sheet, *root, cwd=tmp_path)
    with pytest.raises(SystemExit, match="2"):
        run_tool("tools/check_dataset.py", "CARGO", "--contact-sheet", "sheet.xyz", *root, cwd=tmp_path)
    with pytest.raises(SystemExit, match="error: unknown dataset 'CARG'; did you mean 'CARGO'"):
        run_tool("tools/check_dataset.py", "CARG", *root, cwd=ROOT)
    with pytest.raises(SystemExit, match="error: LAGPeR: no images in .*there is no LAGPeR in .* which holds CARGO"):
        run_tool("tools/check_dataset.py", "LAGPeR", *root, cwd=ROOT)


@pytest.mark.parametrize("key", ["SOLVER.BASE_LR", "DATASETS.SUBSET.RATIO", "DATALOADER.NUM_WORKERS"])
def test_keys_that_are_not_read_are_refused(cargo, tmp_path, key):
    with pytest.raises(SystemExit, match=f"{key} has no effect on checking a data set: only DATASETS.ROOT, "):
        run_tool("tools/check_dataset.py", "CARGO", key, "1", "DATASETS.ROOT", str(cargo), cwd=tmp_path)
    with pytest.raises((SystemExit, KeyError), match="DATASETS.ROT"):
        run_tool("tools/check_dataset.py", "CARGO", "DATASETS.ROT", str(cargo), cwd=tmp_path)
    run_tool("tools/check_dataset.py", "CARGO", "DATASETS.ROOT", str(cargo), "IMPORTS", "[]", cwd=tmp_path)


def test_attributes_are_counted_instead_of_matches(tmp_path):
    write_pa100k(tmp_path)
    said = run_tool("tools/check_dataset.py", "PA100K", "DATASETS.ROOT", ".", cwd=tmp_path)
    assert ["PA100K", "12", "26"] in rows(said) and "with a match" not in said
