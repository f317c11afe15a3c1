"""Ids for names that users or data sets give: names that differ as text get different ids."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Not \d and int(), which also accept digits of other scripts, "1_1", "+1" and " 1".
_CANONICAL = re.compile(r"0|[1-9][0-9]{0,18}")
_LARGEST = 2**63 - 1  # of int64


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
