"""Rows of the JSON lines that stages write, and checks of what later stages read from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fastreid.utils.errors import UserError

Row = dict[str, Any]
Columns = Mapping[str, "Column"]
"""Name of an entry -> what it must be."""


class JournalError(UserError, ValueError):
    """A manifest that is damaged, or that was written with other settings."""


class Column:
    """What an entry of a row must be.

    Args:
        kind: in words, for messages.
        accepts: whether a value is of this kind.
    """

    def __init__(self, kind: str, accepts: Callable[[Any], bool]) -> None:
        self.kind, self.accepts = kind, accepts


def _is_whole_number(value: Any) -> bool:
    return type(value) is int and -1 <= value < 2**63  # not True; -1 is the person of reference pictures


def _is_text(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a pair, which no file can have
        return False
    return True


def _is_below(value: Any) -> bool:
    path = Path(value) if _is_text(value) and "\0" not in value else Path()
    return bool(path.parts) and not path.anchor and ".." not in path.parts


def _are_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(type(score) in (int, float) for score in value.values())


_NUMBER = Column("a whole number", _is_whole_number)
_TEXT = Column("text", _is_text)
_FILE = Column("a path below the folder", _is_below)
_FLAG = Column("true or false", lambda value: isinstance(value, bool))
_NAMES = Column("an object", lambda value: isinstance(value, dict))
_SCORES = Column("an object of numbers", _are_numbers)

KEY: Columns = {"gid": _NUMBER, "number": _NUMBER}
"""What identifies a row."""
CAPTION_ROW: Columns = {**KEY, "image": _TEXT, "caption": _TEXT}
MERGED_ROW: Columns = {"gid": _NUMBER, "image": _TEXT, "caption": _TEXT}
REFERENCE_ROW: Columns = {**KEY, "file": _FILE, "prompt": _TEXT, "attributes": _NAMES}
PICTURE_ROW: Columns = {
    **KEY, "file": _FILE, "source": _TEXT, "person": _TEXT, "prompt": _TEXT, "caption": _TEXT, "swapped": _TEXT,
}  # fmt: skip
VERDICT_ROW: Columns = {**KEY, "kept": _FLAG, "reason": _TEXT, "scores": _SCORES}
EXPORTED_ROW: Columns = {**PICTURE_ROW, "stage_gid": _NUMBER}


def parse_row(line: bytes, columns: Columns, path: Path, number: int, remedy: str) -> Row:
    """Return the row of a line.

    Args:
        line: the line.
        columns: the entries that it must have; it may have others.
        path: the file, for the message.
        number: number of the line from 1, for the message.
        remedy: what to do if it is damaged, for the message.

    Raises:
        JournalError: the line is no JSON object, or an entry is missing or of another kind.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        problem = "is not a JSON object"
    elif wrong := [name for name, column in columns.items() if name not in row or not column.accepts(row[name])]:
        name = wrong[0]
        problem = (
            f"has {name} {row[name]!r:.80}, which is not {columns[name].kind}" if name in row else f"has no {name}"
        )
    else:
        return row
    raise JournalError(f"{path} is damaged: line {number} {problem}. Restore the file, or {remedy}")


def read_rows(path: Path, columns: Columns, remedy: str) -> Iterator[Row]:
    """Yield the rows of a file of JSON lines that a stage has finished.

    Args:
        path: the file.
        columns: the entries that each row must have.
        remedy: what to do if the file is damaged, for the message.

    Raises:
        JournalError: a line is damaged; the message names it.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            yield parse_row(line, columns, path, number, remedy)
