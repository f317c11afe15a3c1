"""Differences between two sets of parameters, for messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def differences(had: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """One phrase for each different parameter, nested ones included: "seed is 1, not 2".

    Args:
        had: the parameters that were used before.
        wanted: those of now.
    """
    phrases = []
    for key in sorted({*had, *wanted}):
        before, now = had.get(key), wanted.get(key)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            phrases += differences(before, now)
        elif before != now:
            phrases.append(f"{key} is {before}, not {now}")
    return phrases
