"""Names that come from outside (of people, of cameras) as ids: two names that differ as text get two ids."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Without re.ASCII, \d and int() would take digits of other scripts, "1_1", "+1" and " 1" for numbers.
_CANONICAL = re.compile(r"0|[1-9][0-9]{0,18}")
_LARGEST = 2**63 - 1  # of int64


def number_names(names: Iterable[str], junk: str | None = None) -> dict[str, int]:
    """Each name -> its id; names that differ as text have different ids.

    If every name is a canonical whole number (`7`, but not `07`, `+7`, `7_0`, `７`, nor above int64) it is its own id.
    Otherwise a name's id is its place in the sorted list of names.

    Args:
        names: of people or of cameras; of all files whose ids are to be compared.
        junk: the name that stands for no person, where a format has one; its id is -1, whether it occurs or not.
    """
    others = sorted(set(names) - {junk})
    if all(map(is_canonical, others)):
        numbers = {name: int(name) for name in others}
    else:
        numbers = places(others)
    return numbers if junk is None else {**numbers, junk: -1}


def places(names: Iterable[str]) -> dict[str, int]:
    """Each name -> its place in the sorted list of names, from 0."""
    return {name: place for place, name in enumerate(sorted(set(names)))}


def is_canonical(name: str) -> bool:
    """Whether `name` is how a whole number from 0 to the largest int64 is written, and so stands for one id only."""
    return bool(_CANONICAL.fullmatch(name)) and int(name) <= _LARGEST
