"""Near matches for mistyped names, for error messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def near_matches(word: str, options: Iterable[str], *, limit: int = 3) -> list[str]:
    """Return up to ``limit`` of ``options`` that are similar to ``word``, best first, ignoring case.

    A name that contains the word, or is contained in it, is always similar.
    """
    by_lower: dict[str, str] = {}
    for option in options:
        by_lower.setdefault(str(option).lower(), str(option))
    lowered = str(word).lower()
    near = get_close_matches(lowered, by_lower, n=limit, cutoff=0.6)
    if len(lowered) >= 3:
        near += [o for o in by_lower if o not in near and (lowered in o or (len(o) >= 3 and o in lowered))]
    return [by_lower[o] for o in near[:limit]]


def explain_choice(kind: str, word: object, options: Iterable[str]) -> str:
    """Return an error message: ``word`` is not a valid ``kind``, near matches, and all options."""
    legal = [str(o) for o in options]
    near = near_matches(str(word), legal)
    hint = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else "."
    return f"unknown {kind} {str(word)!r}{hint} Legal: {', '.join(legal) if legal else '(none)'}"
