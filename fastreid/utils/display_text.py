"""Names from users or data sets as text for pictures, pages and file names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal

_LONGEST = 100  # letters of a file name


def printable(text: str) -> str:
    r"""Replace bytes that are not UTF-8, which file names may have, by `\udc80` to `\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def for_matplotlib(text: str) -> str:
    """Escape text for Matplotlib: `$` starts no formula, and a leading `_` does not remove a legend entry."""
    text = printable(text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def exact(number: float) -> str:
    """Return a number in the short form of `:g` if that is the same number, else with all its digits."""
    short = f"{number:g}"
    return short if float(short) == number else repr(float(number))


def exact_percent(share: float) -> str:
    """Return a share in percent with all its digits, so that two different shares have different texts."""
    return f"{(Decimal(repr(float(share))) * 100).normalize():f}"


def shortened(text: str, longest: int) -> str:
    """Shorten text to its two ends; the second one is longer, as paths differ there."""
    return text if len(text) <= longest else f"{text[: longest // 3]}…{text[len(text) - 2 * longest // 3 + 1 :]}"


def file_names(names: Iterable[str]) -> dict[str, str]:
    """Map each name to a different, similar one that is valid as a file name."""
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
