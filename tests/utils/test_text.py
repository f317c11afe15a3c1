"""Text files of any editor: Unicode with a mark is read, other encodings are named with the place."""

import codecs
import os

import pytest

from fastreid.utils.text import TextError, path_of_text, read_json, read_text, text_of_path

TEXT = "path,person\r\nä.jpg,李\n"


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
def test_unicode_is_read_whatever_its_mark(tmp_path, mark, encoding):
    (tmp_path / "people.csv").write_bytes(mark + TEXT.encode(encoding))
    assert read_text(tmp_path / "people.csv") == TEXT


@pytest.mark.parametrize("encoding", ["gbk", "shift-jis"])
def test_another_encoding_is_named_with_file_line_and_byte(tmp_path, encoding):
    (tmp_path / "people.csv").write_bytes("path,person\na.jpg,李雷\n".encode(encoding))
    with pytest.raises(TextError, match=r"people\.csv is not text in UTF-8: byte 0x\w\w at position 18 \(line 2\)"):
        read_text(tmp_path / "people.csv")


def test_utf_16_cut_in_the_middle_of_a_character_is_refused(tmp_path):
    (tmp_path / "people.csv").write_bytes(codecs.BOM_UTF16_LE + "ab".encode("utf-16-le")[:-1])
    with pytest.raises(TextError, match="UTF-16"):
        read_text(tmp_path / "people.csv")


def test_json_with_a_mark_is_read(tmp_path):
    (tmp_path / "a.json").write_bytes(codecs.BOM_UTF8 + b'{"a": [1]}')
    assert read_json(tmp_path / "a.json") == {"a": [1]}


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "1" * 10_000, '{"a": nul}'])
def test_what_is_not_json_is_named_with_the_file(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(TextError, match=r"a\.json is not JSON that can be read \("):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
def test_names_in_utf_8_are_text_whatever_the_encoding_of_the_system(monkeypatch, encoding):
    monkeypatch.setattr(os, "fsencode", lambda path: path.encode(encoding, "surrogateescape"))
    monkeypatch.setattr(os, "fsdecode", lambda path: path.decode(encoding, "surrogateescape"))
    path = os.fsdecode("ä/李.jpg".encode())
    assert path_of_text(text_of_path(path)) == path and path_of_text("a.jpg") == text_of_path("a.jpg") == "a.jpg"
    assert encoding == "latin-1" or text_of_path(path) == "ä/李.jpg"
    assert path_of_text("李.jpg") == os.fsdecode("李.jpg".encode())
    with pytest.raises(UnicodeError):
        text_of_path("\udcff")
