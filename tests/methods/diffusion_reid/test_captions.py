"""Caption files: paths are found however they are written, and mistakes are named with their line."""

import json
import os

import pytest

from fastreid.config import ConfigError
from fastreid.methods.diffusion_reid.captions import captions_of, read_captions
from fastreid.methods.diffusion_reid.prompts import check_template, prompt_of

TEMPLATE = "a photo of a <id> person, {caption}"


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_paths_are_absolute_or_relative_to_the_file_or_the_data_sets(tmp_path):
    for name in ("captions/a.png", "data/set/b.png", "c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    rows = [("a.png", "one  two"), ("set/b.png", "three"), (str(tmp_path / "c.png"), "")]
    path = write(tmp_path / "captions/c.jsonl", *({"image": image, "caption": text} for image, text in rows), "")
    found = read_captions(path, tmp_path / "data")
    images = [tmp_path / "captions/a.png", tmp_path / "data/set/../set/b.png", tmp_path / "c.png"]
    assert captions_of(map(str, images), found, "here") == ["one two", "three", ""]


def test_only_a_newline_ends_a_line(tmp_path):
    (tmp_path / "a.png").touch()
    path = tmp_path / "c.jsonl"
    path.write_text('{"image": "a.png", "caption": "red\u2028top\x85here"}\r\n\r\n', encoding="utf-8", newline="")
    assert list(read_captions(path).values()) == ["red top here"]


def test_captions_of_missing_images_are_logged(tmp_path, caplog):
    (tmp_path / "a.png").touch()
    path = write(tmp_path / "c.jsonl", {"image": "a.png", "caption": "x"}, {"image": "b.png", "caption": "y"})
    assert len(read_captions(path)) == 2
    assert "1 of 2 captions are of missing images, as" in caplog.text and "b.png" in caplog.text


def test_a_missing_caption_is_named_with_the_nearest_file(tmp_path):
    found = {os.path.realpath(tmp_path / "0002_c1s1.jpg"): "x"}
    paths = [str(tmp_path / name) for name in ("0002_c1s2.jpg", "0002_c1s1.jpg")]
    with pytest.raises(ConfigError, match=r"1 of 2 training images have no caption in f: .*0002_c1s2\.jpg.*0002_c1s1"):
        captions_of(paths, found, "f")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"image": "a", "caption": "x"}, "junk"], 'line 2: expected {"image": PATH'),
        ([{"image": "a"}], "line 1: expected"),
        ([{"image": "a", "caption": 3}], "line 1: expected"),
        ([{"image": "a", "caption": "x"}, {"image": "./a", "caption": "y"}], "line 2: ./a has another caption"),
        ([""], "the file is empty"),
        (["[" * 100_000], "line 1: expected"),
        (['{"image": "a\\u0000b", "caption": "x"}'], "line 1: expected"),
        (['{"image": "a", "caption": "\\ud800"}'], "line 1: expected"),
        (['{"image": "\\ud800", "caption": "x"}'], "line 1: expected"),
        ([{"image": f"{'a' * 300}.jpg", "caption": "x"}], "line 1: expected"),
    ],
)
def test_damaged_files(tmp_path, rows, said):
    with pytest.raises(ConfigError, match=said):
        read_captions(write(tmp_path / "c.jsonl", *rows))


def test_no_file(tmp_path):
    with pytest.raises(ConfigError, match=r"the captions .*gone\.jsonl cannot be read"):
        read_captions(tmp_path / "gone.jsonl")


def test_prompts():
    assert prompt_of(TEMPLATE, "a red top.", has_words=True) == "a photo of a <id> person, a red top"
    assert prompt_of(TEMPLATE, "", has_words=True) == "a photo of a <id> person"
    assert prompt_of(TEMPLATE, "a red top", has_words=False) == "a photo of a person, a red top"
    assert prompt_of(TEMPLATE, "the <id> word", has_words=True).count("<id>") == 1
    assert prompt_of("{caption}", "", has_words=False) == ""


@pytest.mark.parametrize(
    ("template", "has_words", "said"),
    [
        ("a <id> person", True, "must have {caption} once"),
        ("a person, {caption}", True, "must have <id> once"),
        ("<id> <id> {caption}", False, "must have <id> once"),
    ],
)
def test_templates_that_cannot_work(template, has_words, said):
    with pytest.raises(ConfigError, match=said):
        check_template(template, has_words=has_words)
    check_template("a person, {caption}", has_words=False)
