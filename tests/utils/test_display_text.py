"""Names from outside as text that pictures, pages and files can hold."""

import json
import os

from fastreid.utils.display_text import exact, exact_percent, file_names, for_matplotlib, printable, shortened


def test_bytes_that_are_not_utf_8_are_escaped_as_json_does():
    name = os.fsdecode(b"a\xff\xc3\xab")
    assert printable(name) == "a\\udcffë"
    assert json.loads(printable(json.dumps(name, ensure_ascii=False))) == name


def test_nothing_is_a_formula_or_a_hidden_label():
    assert for_matplotlib("a$b$c") == r"a\$b\$c" and for_matplotlib("_a") == " _a" and for_matplotlib("a_b") == "a_b"


def test_long_texts_lose_their_middle():
    assert shortened("a" * 40, 40) == "a" * 40
    assert shortened("a" * 20 + "b" * 80, 30) == "a" * 10 + "…" + "b" * 19


def test_different_numbers_have_different_texts():
    assert [exact(number) for number in (0.5, 0.1, 1.0, 30, 1e-05)] == ["0.5", "0.1", "1", "30", "1e-05"]
    assert [exact(number) for number in (0.7500001, 0.7500002, 1 / 3)] == ["0.7500001", "0.7500002", repr(1 / 3)]
    assert [exact_percent(share) for share in (0.5, 0.07, 1.0, 1e-05)] == ["50", "7", "100", "0.001"]
    assert [exact_percent(share) for share in (0.7500001, 0.7500002)] == ["75.00001", "75.00002"]


def test_file_names_are_different_and_as_like_as_can_be():
    names = ["CARGO_AG", "csv:/a.csv", "csv;/a.csv", "CSV:/a.csv", "李", "明", "x" * 400]
    found = file_names(names)
    assert found["CARGO_AG"] == "CARGO_AG" and found["csv:/a.csv"] == "csv__a.csv"
    assert len({name.lower() for name in found.values()}) == len(names)
    assert all(name.isascii() and "/" not in name and len(name) <= 110 for name in found.values())
