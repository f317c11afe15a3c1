"""Thresholds of the distance below which two images are taken for one person, with the rates that they give."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tabulate import tabulate

from fastreid.evaluation.roc import RocCurve
from fastreid.evaluation.scoring_options import Scoring

logger = logging.getLogger(__name__)

MATCH_RATES = (1e-3, 1e-2, 5e-2)  # greatest false-match rates

Thresholds = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """A threshold of the distance, and what happens to pairs at or below it.

    Attributes:
        choice: how it was chosen.
        threshold: the distance; None if even the nearest right pair is farther than too many wrong pairs.
        true_match_rate: right pairs that are accepted, in percent.
        false_match_rate: wrong pairs that are accepted, in percent.
        false_matches: number of wrong pairs that are accepted.
        note: what limits its meaning; "" if nothing does.
    """

    choice: str
    threshold: float | None
    true_match_rate: float
    false_match_rate: float
    false_matches: int
    note: str = ""


def thresholds_of(roc: RocCurve, scoring: Scoring | None = None) -> Thresholds:
    """Return the thresholds of a protocol as plain types for JSON.

    `metric` and `changed_by` say which distances they are: those of the metric, or of what expansion or re-ranking has
    made of them. `right_pairs` and `wrong_pairs` are numbers, and `points` has a record of each `OperatingPoint`.

    The points are the greatest thresholds at which the false-match rate is at most 0.1, 1 and 5 %, the one at which the
    greater of the two error rates is least, and the one of the greatest balanced accuracy.

    Args:
        roc: curve of the pairs.
        scoring: how their distances were computed; None leaves out what it says.
    """
    facts: Thresholds = (
        {} if scoring is None else {"metric": scoring.metric, "changed_by": list(scoring.changes_by_gallery)}
    )
    equal_errors = int(np.argmin(np.maximum(roc.fpr, 1 - roc.tpr)))
    points = [
        *(_at_most(roc, rate) for rate in MATCH_RATES),
        _point(roc, "equal errors", equal_errors),
        _point(roc, "balanced accuracy", roc.best_point),
    ]
    return facts | {
        "right_pairs": roc.num_right,
        "wrong_pairs": roc.num_wrong,
        "points": [asdict(point) for point in points],
    }


def rate_label(rate: float) -> str:
    """Return a rate in percent, as "0.1 %"."""
    return f"{100 * rate:g} %"


def match_rate_choice(rate: float) -> str:
    """Return the `choice` of the point of a false-match rate."""
    return f"false matches <= {rate_label(rate)}"


def _at_most(roc: RocCurve, rate: float) -> OperatingPoint:
    """Return the point of the greatest false-match rate that is not above `rate`."""
    note = "" if rate * roc.num_wrong >= 1 else f"needs {round(1 / rate):,} wrong pairs, there are {roc.num_wrong:,}"
    return _point(roc, match_rate_choice(rate), roc.point_at(rate), note)


def _point(roc: RocCurve, choice: str, number: int | None, note: str = "") -> OperatingPoint:
    if number is None:
        return OperatingPoint(
            choice=choice, threshold=None, true_match_rate=0.0, false_match_rate=0.0, false_matches=0, note=note
        )
    return OperatingPoint(
        choice=choice,
        threshold=float(roc.thresholds[number]),
        true_match_rate=100 * float(roc.tpr[number]),
        false_match_rate=100 * float(roc.fpr[number]),
        false_matches=int(roc.false_positives[number]),
        note=note,
    )


def threshold_table(thresholds: Mapping[str, Any]) -> str:
    """Return what `thresholds_of` returns as a table."""
    rows = [
        [
            point["choice"],
            "none" if point["threshold"] is None else f"{point['threshold']:.4f}",
            f"{point['true_match_rate']:.2f}",
            f"{point['false_match_rate']:.3f}",
            f"{point['false_matches']:,}",
            point["note"],
        ]
        for point in thresholds["points"]
    ]
    headers = ["chosen by", "distance at most", "true matches, %", "false matches, %", "false matches", ""]
    if not any(point["note"] for point in thresholds["points"]):
        headers, rows = headers[:-1], [row[:-1] for row in rows]
    align = ["left", *["right"] * 4, "left"][: len(headers)]
    return tabulate(rows, headers=headers, tablefmt="simple_outline", disable_numparse=True, colalign=align)


def log_thresholds(name: str, thresholds: Mapping[str, Any]) -> None:
    """Log the thresholds of a protocol."""
    logger.info(
        "%s: thresholds of the distance that was scored (TEST.METRIC), over %s right and %s wrong pairs:\n%s",
        name, f"{thresholds['right_pairs']:,}", f"{thresholds['wrong_pairs']:,}", threshold_table(thresholds),
    )  # fmt: skip
