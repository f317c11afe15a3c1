"""Rows of JSON lines: what a later stage reads is checked, and a damaged line is named."""

import json

import pytest

from fastreid.generation.journal import Journal
from fastreid.generation.rows import (
    CAPTION_ROW,
    EXPORTED_ROW,
    MERGED_ROW,
    PICTURE_ROW,
    REFERENCE_ROW,
    VERDICT_ROW,
    JournalError,
    read_rows,
)

KEY = {"gid": 0, "number": 1}
PICTURE = {
    **KEY, "file": "00000/0001.png", "source": "A", "person": "7", "prompt": "p", "caption": "c", "swapped": "",
}  # fmt: skip
ROWS = {
    "caption": (CAPTION_ROW, {**KEY, "image": "/a.jpg", "caption": ""}),
    "merged": (MERGED_ROW, {"gid": 0, "image": "/a.jpg", "caption": ""}),
    "reference": (REFERENCE_ROW, {**KEY, "gid": -1, "file": "0001.png", "prompt": "p", "attributes": {}}),
    "picture": (PICTURE_ROW, PICTURE),
    "verdict": (VERDICT_ROW, {**KEY, "kept": True, "reason": "", "scores": {"blur": 0.5, "reid": 1}}),
    "exported": (EXPORTED_ROW, {**PICTURE, "stage_gid": 3}),
}


@pytest.mark.parametrize("kind", ROWS)
def test_whole_rows_are_read_and_each_entry_is_demanded(kind, tmp_path):
    columns, row = ROWS[kind]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    assert list(read_rows(path, columns, "write it again")) == [row]
    assert columns.keys() == row.keys()
    for name in row:
        path.write_text(f"{json.dumps(row)}\n{json.dumps({key: row[key] for key in row if key != name})}\n")
        with pytest.raises(JournalError, match=f"damaged: line 2 has no {name}. Restore the file, or write it again"):
            list(read_rows(path, columns, "write it again"))


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        *(("picture", "gid", value) for value in ("0", None, [1], 1.0, float("nan"), True, 2**63, -2)),
        ("picture", "number", "1"),
        *(("picture", "file", value) for value in ("../../etc/passwd", "a/../../b", "/etc/passwd", "", ".", 3, "a\0b")),
        ("picture", "prompt", "\ud800"),
        ("verdict", "kept", 1),
        ("verdict", "scores", {"blur": "high"}),
        ("verdict", "scores", [1]),
        ("merged", "caption", None),
        ("reference", "attributes", []),
    ],
)
def test_an_entry_of_another_kind_is_named(kind, name, value, tmp_path):
    columns, row = ROWS[kind]
    (tmp_path / "manifest-1of1.jsonl").write_text(json.dumps({**row, name: value}) + "\n")
    with pytest.raises(JournalError, match=f"line 1 has {name} .*, which is not .*, or delete .* to run the"):
        Journal(tmp_path, columns).rows()


@pytest.mark.parametrize(
    "line", [b"[1]", b"\xff\xfe\x00", b"{", b"null", b"", b"[" * 100_000, b"9" * 5000], ids=lambda line: str(line[:3])
)
def test_other_lines_are_named(line, tmp_path):
    columns, row = ROWS["picture"]
    path = tmp_path / "manifest-1of1.jsonl"
    path.write_bytes(json.dumps(row).encode() + b"\n" + line + b"\n")
    for read in (Journal(tmp_path, columns).rows, lambda: list(read_rows(path, columns, "write it again"))):
        with pytest.raises(JournalError, match="manifest-1of1.jsonl is damaged: line 2 is not a JSON object"):
            read()
