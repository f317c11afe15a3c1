"""The failed queries of one protocol and run, and who is taken for whom, as the page shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastreid.structures import PersonImage
from fastreid.structures.names import relative_names

SHOWN_PAIRS = 30  # rows of the table of confusions


def failed_column(lists: Mapping[str, Any], shown: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the page shows of the failed queries of a run.

    Args:
        lists: the ranked lists of a protocol.
        shown: the first failed queries, which are shown with pictures.

    Returns:
        `count`, `of` (the number of valid queries), `shown`, and `rest`: (file, path, query) of the other ones.
    """
    failed = lists["failed"]
    rest = failed[len(shown) :]
    paths = [query["query"]["path"] for query in failed]
    files = relative_names([PersonImage(path, 0, 0) for path in paths]) if paths else []
    return {
        "count": len(failed),
        "of": len(lists["ap_by_query"]),
        "shown": shown,
        "rest": list(zip(files[len(shown) :], paths[len(shown) :], rest, strict=True)),
    }


def confusion_column(pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the most frequent pairs, and the number of the other ones."""
    return {"pairs": pairs[:SHOWN_PAIRS], "more": len(pairs[SHOWN_PAIRS:])}
