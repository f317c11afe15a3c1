"""Names from outside as text that pictures, pages and file names can hold."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LONGEST = 100  # letters of a file name


def printable(text: str) -> str:
    """The text without bytes that are not UTF-8, which file names may have: they become `\\udc80` to `\\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def for_matplotlib(text: str) -> str:
    """The text as Matplotlib draws it letter by letter: no formula between `$`, no legend entry lost for its `_`."""
    text = printable(text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def shortened(text: str, longest: int) -> str:
    """The text; of a longer one its two ends, more of the second, which tells paths apart."""
    return text if len(text) <= longest else f"{text[: longest // 3]}…{text[len(text) - 2 * longest // 3 + 1 :]}"


def file_names(names: Iterable[str]) -> dict[str, str]:
    """Each name -> a different one that a file can have in any folder, as like it as can be."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_.+-]", "_", printable(name))[-_LONGEST:]
        unique, count = plain, 1
        while unique.lower() in taken:
            count += 1
            unique = f"{plain}_{count}"
        taken.add(unique.lower())
        found[name] = unique
    return found
