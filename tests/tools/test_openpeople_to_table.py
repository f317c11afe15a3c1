"""tools/openpeople_to_table.py on a package of two people of the same form."""

import csv
import json
import sys
import types

import pytest
from PIL import Image

from tests.miniature import run_tool
from tests.tools.holding import locked_by_another


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The folder of a package with two people; the second one lacks a picture."""
    folder = tmp_path / "site/openpeople"
    for person, sex, names in (
        ("P001", "female", ("studio_posture", "amateur_posture", "emotions_sheet")),
        ("P002", "male", ("studio_posture",)),
    ):
        assets = folder / f"data/curated/{person}/assets"
        assets.mkdir(parents=True)
        for name in names:
            Image.new("RGB", (30, 60), "red").save(assets / f"{name}.jpg")
        details = {"demographics": {"sex": sex}, "visible_traits": {"hair": {"description": "short black hair"}}}
        (assets.parent / "metadata.json").write_text(json.dumps({"character_details": details}))
    module = types.ModuleType("openpeople")
    module.__file__ = str(folder / "__init__.py")
    monkeypatch.setitem(sys.modules, "openpeople", module)
    return folder


def test_pictures_of_one_person_become_a_table_with_captions(package, tmp_path):
    said = run_tool("tools/openpeople_to_table.py", "--output", "out", "--height", "32", cwd=tmp_path)
    assert "3 pictures" in said
    rows = list(csv.DictReader((tmp_path / "out/people.csv").open()))
    assert [(row["person"], row["camera"], row["split"]) for row in rows] == [
        ("P001", "0", "train"), ("P001", "1", "train"), ("P002", "1", "train"),
    ]  # fmt: skip
    assert {Image.open(tmp_path / "out" / row["path"]).size for row in rows} == {(16, 32)}
    captions = [json.loads(line) for line in (tmp_path / "out/captions.jsonl").read_text().splitlines()]
    assert [row["image"] for row in captions] == [row["path"] for row in rows]
    assert captions[1]["caption"] == "a woman, short black hair, standing, seen from the front"


def test_a_missing_package_and_a_damaged_one(package, tmp_path, monkeypatch):
    for path in package.rglob("metadata.json"):
        path.unlink()
    with pytest.raises(SystemExit, match="has no people with metadata.json"):
        run_tool("tools/openpeople_to_table.py", "--output", "out", cwd=tmp_path)
    monkeypatch.setitem(sys.modules, "openpeople", None)
    with pytest.raises(SystemExit, match="pip install openpeople"):
        run_tool("tools/openpeople_to_table.py", "--output", "out", cwd=tmp_path)


def convert(folder, *words):
    return run_tool("tools/openpeople_to_table.py", "--output", "out", *words, cwd=folder)


@pytest.mark.parametrize("height", ["0", "-5", "1.5", "16385", "x"])
def test_a_height_out_of_range_is_refused(package, tmp_path, capsys, height):
    with pytest.raises(SystemExit):
        convert(tmp_path, f"--height={height}")
    assert f"a number of pixels from 1 to 16,384, got '{height}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{}", "[" * 100_000),
        *(json.dumps({"character_details": found}) for found in ([], {"demographics": 3})),
        json.dumps({"character_details": {"demographics": {"sex": ["f"]}}}),
        json.dumps({"character_details": {"visible_traits": {"hair": {"description": 3}}}}),
    ],
)
def test_damaged_metadata_are_named(package, tmp_path, content):
    (package / "data/curated/P002/metadata.json").write_text(content)
    with pytest.raises(SystemExit, match="P002/metadata.json is damaged .*: install openpeople again"):
        convert(tmp_path)


@pytest.mark.parametrize("content", [b"", b"text", b"\xff\xd8\xff"])
def test_a_damaged_picture_is_named(package, tmp_path, content):
    (package / "data/curated/P002/assets/studio_posture.jpg").write_bytes(content)
    with pytest.raises(SystemExit, match="cannot read image .*P002/assets/studio_posture.jpg"):
        convert(tmp_path)


@pytest.mark.parametrize("name", ["people.csv", "captions.jsonl"])
def test_a_file_of_the_user_is_kept_unless_it_may_be_replaced(package, tmp_path, name):
    convert(tmp_path, "--height", "32")
    convert(tmp_path, "--height", "16")  # the same table
    written = (tmp_path / "out" / name).read_bytes()
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(SystemExit, match=f"{name} exists and has another content.*--overwrite"):
        convert(tmp_path, "--height", "32")
    assert (tmp_path / "out" / name).read_text() == "mine"
    assert Image.open(tmp_path / "out/images/P002_studio_posture.jpg").height == 16
    convert(tmp_path, "--overwrite")
    assert (tmp_path / "out" / name).read_bytes() == written


def test_a_folder_that_another_process_writes_to_is_refused(package, tmp_path):
    with locked_by_another(tmp_path / "out"):
        with pytest.raises(SystemExit, match="out is in use by"):
            convert(tmp_path)
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".fastreid.lock"]
    convert(tmp_path)
    assert not (tmp_path / "out/.fastreid.lock").exists()
