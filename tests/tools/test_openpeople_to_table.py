"""tools/openpeople_to_table.py on a package of two people of the same form."""

import csv
import json
import sys
import types

import pytest
from PIL import Image

from tests.miniature import run_tool


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
