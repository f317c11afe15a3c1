"""Names of people, cameras and images: ids for names that users give, and names that depend on no folder."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from fastreid.structures.person_image import PersonImage

# Not \d and int(), which also accept digits of other scripts, "1_1", "+1" and " 1".
_CANONICAL = re.compile(r"0|[1-9][0-9]{0,18}")
_LARGEST = 2**63 - 1  # of int64
_SHOWN = 5


def number_names(names: Iterable[str], junk: str | None = None) -> dict[str, int]:
    """Map each name to an id; names that differ as text have different ids.

    If every name is a canonical whole number (`7`, but not `07`, `+7`, `7_0`, `７`, nor above int64), the number is the
    id. Otherwise the id is the position in the sorted list of names.

    Args:
        names: names from all files whose ids are compared.
        junk: the name for no person, in formats that have one; its id is -1, even if it does not occur.
    """
    others = sorted(set(names) - {junk})
    if all(map(is_canonical, others)):
        numbers = {name: int(name) for name in others}
    else:
        numbers = sorted_positions(others)
    return numbers if junk is None else {**numbers, junk: -1}


def sorted_positions(names: Iterable[str]) -> dict[str, int]:
    """Map each name to its position in the sorted list of names, from 0."""
    return {name: position for position, name in enumerate(sorted(set(names)))}


def is_canonical(name: str) -> bool:
    """Whether `name` is the canonical spelling of a whole number from 0 to the largest int64."""
    return bool(_CANONICAL.fullmatch(name)) and int(name) <= _LARGEST


def relative_names(images: Iterable[PersonImage]) -> list[str]:
    """Paths of images relative to the folder that all of them are in."""
    paths = [image.path for image in images]
    folders = {os.path.dirname(path) for path in paths}
    # Relative and absolute folders have nothing in common.
    common = os.path.commonpath(folders) if len({os.path.isabs(f) for f in folders}) == 1 else ""
    return [Path(os.path.relpath(path, common) if common else path).as_posix() for path in paths]


def differing_in_spelling(names: Iterable[str], what: str) -> str:
    """Return a sentence about names that are easily taken for one, `Ann` and `ann` or `007` and `7`; "" without any.

    Args:
        names: the names.
        what: what they name, "people".
    """
    groups: dict[str, list[str]] = {}
    for name in set(names):
        groups.setdefault(_folded(name), []).append(name)
    similar = sorted(sorted(group) for group in groups.values() if len(group) > 1)
    if not similar:
        return ""
    shown = ", ".join(" and ".join(map(_quoted, group)) for group in similar[:_SHOWN])
    more = " …" if len(similar) > _SHOWN else ""
    return f"{what} whose names differ in spelling only are different {what}: {shown}{more}"


def _quoted(name: str) -> str:
    """Return a name in quotes; letters with combining marks, which look like single letters, as their codes."""
    return repr(name) if unicodedata.is_normalized("NFC", name) else ascii(name)


def _folded(name: str) -> str:
    """Return what similar names share: without case and spaces, and whole numbers without leading zeros."""
    folded = "".join(unicodedata.normalize("NFKC", name).casefold().split())
    try:
        return str(int(folded))
    except ValueError:
        return folded
