"""Reading of text files, and of JSON, in UTF-8, UTF-16 or UTF-32; paths as text."""

from __future__ import annotations

import codecs
import json
import os
from pathlib import Path
from typing import Any

from fastreid.utils.errors import UserError

# UTF-32-LE before UTF-16-LE, whose mark is the beginning of its mark.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class TextError(UserError, ValueError):
    """A text file in an unsupported encoding, or that is not JSON."""


def read_text(path: str | os.PathLike[str]) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark, with its line ends.

    Args:
        path: the file.

    Raises:
        TextError: a byte is not valid in that encoding; the message names its position.
        OSError: the file cannot be read.
    """
    content = Path(path).read_bytes()
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise TextError(
            f"{path} is not text in {encoding.upper().removesuffix('-SIG')}: byte {content[error.start]:#04x} at "
            f"position {error.start} (line {line}) cannot be decoded; save the file as UTF-8"
        ) from error


def read_json(path: str | os.PathLike[str]) -> Any:
    """Return the content of a JSON file.

    Args:
        path: the file.

    Raises:
        TextError: it is not JSON, or too deeply nested.
        OSError: the file cannot be read.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TextError(f"{path} is not JSON that can be read ({error})") from error


def text_of_path(path: str) -> str:
    """Return a path as text: names of files are UTF-8, also if the system has another encoding, as in LC_ALL=POSIX.

    Args:
        path: a path, or a part of it, with the surrogates that Python has for bytes that it did not decode.

    Raises:
        UnicodeError: the bytes are not UTF-8.
    """
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return os.fsencode(path).decode("utf-8")
    return path


def path_of_text(text: str) -> str:
    """Return the path that a text names; `text_of_path` is the inverse.

    Args:
        text: a path of a text file.
    """
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return os.fsdecode(text.encode("utf-8"))
    return text
