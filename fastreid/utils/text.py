"""Reading text files that users wrote with any editor."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

from fastreid.utils.errors import UserError

# The longer mark first: that of UTF-32-LE begins with that of UTF-16-LE.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class TextError(UserError, ValueError):
    """A text file in an encoding that is not read."""


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark. Line ends are left as they are.

    Raises:
        TextError: the bytes are not in that encoding; names the file, and the place of the first wrong byte.
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
