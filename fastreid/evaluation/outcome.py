"""What stays of a scored protocol: told in the log, written beside the figures."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastreid.evaluation.breakdown import Row, breakdown_table
from fastreid.evaluation.confidence import bootstrap_intervals
from fastreid.evaluation.ranked_lists import ranked_lists
from fastreid.evaluation.results import print_csv_format, write_json, write_results
from fastreid.evaluation.roc import Curves, roc_curve
from fastreid.evaluation.score import ProtocolResult
from fastreid.structures import PersonImage
from fastreid.utils.optional import optional

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What stays of a scored protocol; its descriptors do not."""

    metrics: dict[str, float | int]
    interval: dict[str, tuple[float, float]]
    lists: dict[str, Any]
    breakdown: dict[str, list[Row]]
    curves: Curves | None


def outcome_of(
    result: ProtocolResult,
    name: str,
    query: Sequence[PersonImage],
    gallery: Sequence[PersonImage],
    *,
    with_plots: bool = False,
    person_names: Mapping[int, str] | None = None,
    camera_names: Mapping[int, str] | None = None,
) -> Outcome:
    """Tell what is to be known about a protocol beside its figures, and keep what is written."""
    skipped = len(query) - result.ranking.num_valid_queries
    if skipped:
        logger.info(
            "%s: %d of %d queries have no match under another camera and are not counted",
            name,
            skipped,
            len(query),
        )
    worst, best = result.ranking.mean_ap_bounds
    if best - worst > 1e-4:  # of distinct distances nothing is to be said
        logger.warning(
            "%s: many distances are equal; another order among them could give an mAP from %.2f to %.2f",
            name,
            100 * worst,
            100 * best,
        )
    interval = bootstrap_intervals(result.ranking, rank1=result.rank1)
    logger.info("%s: resampled queries give an mAP from %.1f to %.1f (95 %%)", name, *interval["mAP"])
    for by, rows in result.breakdown.items():
        logger.info("%s by %s, in percent:\n%s", name, by, breakdown_table(rows))
    curves = None
    if with_plots:
        curves = Curves(result.cmc, result.roc or roc_curve(result.distances, result.matches))
    lists = ranked_lists(result, query, gallery, person_names, camera_names)
    return Outcome(result.metrics, interval, lists, result.breakdown, curves)


def write_outcomes(outcomes: Mapping[str, Outcome], output_dir: Path) -> None:
    results = {name: outcome.metrics for name, outcome in outcomes.items()}
    write_results(output_dir, results)
    write_json(output_dir / "intervals.json", {name: outcome.interval for name, outcome in outcomes.items()})
    write_json(output_dir / "ranked_lists.json", {name: outcome.lists for name, outcome in outcomes.items()})
    if any(outcome.breakdown for outcome in outcomes.values()):
        write_json(output_dir / "breakdown.json", {name: outcome.breakdown for name, outcome in outcomes.items()})
    curves = {name: outcome.curves for name, outcome in outcomes.items() if outcome.curves}
    if curves and optional("matplotlib.figure", "no plots are drawn"):
        from fastreid.evaluation.plots import draw_plots  # Matplotlib takes long to import, and few ask for pictures

        draw_plots(curves, output_dir / "plots")
    print_csv_format(results)
