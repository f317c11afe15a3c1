"""The data card: what is on it, names escaped, no other file needed."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from fastreid.generation.card import (
    RENDERED,
    UNKNOWN_LICENCE,
    Card,
    Model,
    Source,
    collect_card,
    licence_of,
    write_card,
)
from fastreid.generation.export import export_pictures
from fastreid.generation.export_plan import ExportError, ExportOptions
from fastreid.generation.rows import JournalError
from tests.generation.stages import write_stages

STRANGE = "<script>alert('x')</script> | **bold** \udc80"
CARD = Card(
    sources=[Source(STRANGE, 3, 1234, "MIT")],
    models=[Model("captions", "models/blip2"), Model("pictures", "models/<sd>", "CreativeML OpenRAIL-M")],
    settings={"DIFFPERSON.GEN.STEPS": 50, "DIFFPERSON.CTF": {"MODE": "quantile"}},
    counts={"generated pictures": 10, "kept pictures": 6},
    drops={"confidence": 3, "blur": 1},
    figures={"attribute entropy": {"colour": 1.23456}, "KID": "not measured"},
    made={"command": "python tools/diffperson.py card", "commit": "abc"},
)


class Page(HTMLParser):
    """Tags, attributes that load something, and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.loaded, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loaded += [value for name, value in attributes if name in ("src", "href", "data")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def sheets(tmp_path):
    paths = {}
    for title, colour in (("kept <all>", "green"), ("dropped", "red")):
        paths[title] = tmp_path / f"{colour}.png"
        Image.new("RGB", (30, 20), colour).save(paths[title])
    return paths


def write(folder, card):
    write_card(card, folder)
    return (folder / "card.md").read_text(), Page((folder / "card.html").read_text())


def test_what_is_on_the_card(tmp_path):
    for text in (write(tmp_path, CARD)[0].replace("\\", ""), write(tmp_path, CARD)[1].text):
        for part in (
            *("1,234", "MIT", "models/<sd>", "CreativeML OpenRAIL-M", UNKNOWN_LICENCE, "DIFFPERSON.GEN.STEPS", "50"),
            *("DIFFPERSON.CTF: MODE", "quantile", "confidence", "30.0%", "10.0%", "attribute entropy: colour", "1.235"),
            *("not measured", "python tools/diffperson.py card", "abc"),
        ):
            assert part in text, part


def test_names_are_escaped(tmp_path):
    markdown, page = write(tmp_path, CARD)
    assert "script" not in page.tags and STRANGE.replace("\udc80", r"\udc80") in page.text
    row = next(line for line in markdown.splitlines() if "alert" in line)
    assert "\\<script\\>" in row and len(re.findall(r"(?<!\\)\|", row)) == 5 and r"\*\*bold\*\*" in row


def test_tables_of_markdown_are_whole(tmp_path):
    markdown, page = write(tmp_path, CARD)
    blocks = [block.splitlines() for block in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE)]
    assert len(blocks) == 7 == page.tags.count("table")
    for head, rule, *rows in blocks:
        bars = [len(re.findall(r"(?<!\\)\|", line)) for line in (head, rule, *rows)]
        assert rows and len(set(bars)) == 1


def test_sheets_are_in_the_page_and_beside_the_text(tmp_path, sheets):
    markdown, page = write(tmp_path / "out", replace(CARD, sheets=sheets))
    assert page.tags.count("img") == 2 and all(part.startswith("data:image/jpeg;base64,") for part in page.loaded)
    files = re.findall(r"!\[.*?\]\((.*?)\)", markdown)
    assert [Image.open(tmp_path / "out" / file).size for file in files] == [(30, 20), (30, 20)]
    assert "kept <all>" in page.text


def test_empty_parts_say_so(tmp_path):
    _, page = write(tmp_path, Card([], [], {}, {}, {}))
    assert "No picture was dropped." in page.text and "Not measured." in page.text and "table" not in page.tags


def test_a_card_of_an_export(tmp_path):
    folder = write_stages(tmp_path / "run")
    with pytest.raises(ExportError, match="run the stage export first"):
        collect_card(folder, models=[], settings={})
    export_pictures(folder, ExportOptions(exclude_sources=("CUHK03",)))
    card = collect_card(folder, models=[], settings={}, licences={"MSMT17": "by agreement"})
    assert card.sources == [
        Source("CUHK03", 0, 0, UNKNOWN_LICENCE),
        Source("MSMT17", 2, 8, "by agreement"),
        Source("Market1501", 1, 3, UNKNOWN_LICENCE),
    ]
    assert card.drops == {"blur": 2, "confidence": 2, "near_copy": 1}
    assert card.counts == {
        "generated pictures": 20, "kept pictures": 15, "exported pictures": 11,
        "exported people": 3,
    }  # fmt: skip
    clean = collect_card(folder, models=[], settings={}, exclude_sources=["CUHK03"])
    assert clean.sources == [Source("MSMT17", 2, 8, UNKNOWN_LICENCE), Source("Market1501", 1, 3, UNKNOWN_LICENCE)]
    assert clean.counts["generated pictures"] == 16 and clean.drops == {"blur": 2, "confidence": 2, "near_copy": 1}
    assert card.made.keys() == {"command", "version", "commit", "date"}
    write_card(card, folder / "DiffPerson")
    assert (folder / "DiffPerson/card.html").is_file()
    (folder / "DiffPerson/meta.jsonl").write_text("{}\n{")
    with pytest.raises(JournalError, match="meta.jsonl is damaged: line 1 has no gid"):
        collect_card(folder, models=[], settings={})


def test_a_card_without_filters(tmp_path):
    folder = write_stages(tmp_path)
    for path in (folder / "filter").iterdir():
        path.unlink()
    export_pictures(folder, ExportOptions(), filtered=False)
    card = collect_card(folder, models=[], settings={})
    assert "kept pictures" not in card.counts and card.counts["exported pictures"] == 20 and card.drops == {}


def test_licences_of_sources(tmp_path):
    assert licence_of("CARGO") == licence_of("CARGO_AG", tmp_path) == "academic use only"
    assert licence_of("openpeople") == "MIT" and licence_of("csv:mine.csv") == UNKNOWN_LICENCE
    (tmp_path / "CARGO").mkdir()
    (tmp_path / "CARGO/render.json").write_text(json.dumps({}))
    assert licence_of("CARGO", tmp_path) == RENDERED
