"""Results of a run: what is kept of each scored protocol, logged, and written as JSON, CSV and plots."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from fastreid.evaluation.breakdown import Row, breakdown_table
from fastreid.evaluation.roc import Curves
from fastreid.evaluation.thresholds import Thresholds
from fastreid.utils.display_text import printable
from fastreid.utils.files import atomic_write
from fastreid.utils.optional import optional

logger = logging.getLogger(__name__)

THRESHOLDS = "thresholds.json"
# Files that each evaluation writes, and the page that shows them.
RESULTS = ("results.json", "results.csv", "intervals.json", "ranked_lists.json", "breakdown.json", "report.html")

Metrics = Mapping[str, float | int]


@dataclass(frozen=True)
class Outcome:
    """The parts of a scored protocol that are written; its descriptors are not kept.

    Attributes:
        metrics: figures in percent.
        interval: confidence intervals of Rank-1, mAP and mINP, in percent.
        lists: as `ranked_lists` returns them.
        breakdown: rows by "view" and "camera".
        thresholds: as `thresholds_of` returns them, if verification figures are asked for.
        curves: for plots, if they are asked for.
    """

    metrics: dict[str, float | int]
    interval: dict[str, tuple[float, float]]
    lists: dict[str, Any]
    breakdown: dict[str, list[Row]]
    thresholds: Thresholds | None
    curves: Curves | None


def write_outcomes(outcomes: Mapping[str, Outcome], output_dir: Path) -> None:
    """Write the files of all protocols, draw the plots that are asked for, and log the table of figures."""
    results = {name: outcome.metrics for name, outcome in outcomes.items()}
    write_results(output_dir, results)
    write_json(output_dir / "intervals.json", {name: outcome.interval for name, outcome in outcomes.items()})
    write_json(output_dir / "ranked_lists.json", {name: outcome.lists for name, outcome in outcomes.items()})
    _write_or_remove(output_dir / "breakdown.json", {name: outcome.breakdown for name, outcome in outcomes.items()})
    _write_or_remove(output_dir / THRESHOLDS, {name: outcome.thresholds for name, outcome in outcomes.items()})
    curves = {name: outcome.curves for name, outcome in outcomes.items() if outcome.curves}
    if curves and optional("matplotlib.figure", "no plots are drawn"):
        from fastreid.evaluation.plots import draw_plots  # importing Matplotlib is slow, and few runs draw plots

        draw_plots(curves, output_dir / "plots")
    print_csv_format(results, {name: outcome.lists["chance"] for name, outcome in outcomes.items()})


def _write_or_remove(path: Path, contents: Mapping[str, Any]) -> None:
    """Write what some evaluations have; if this one has none, remove the file of an earlier one."""
    if any(contents.values()):
        write_json(path, contents)
    else:
        path.unlink(missing_ok=True)


def set_results_aside(output_dir: str | Path) -> list[str]:
    """Rename what an earlier evaluation has written to NAME_before; return the new names."""
    paths = [path for path in (Path(output_dir) / name for name in (*RESULTS, THRESHOLDS)) if path.is_file()]
    return [path.replace(path.with_stem(f"{path.stem}_before")).name for path in paths]


def write_results(output_dir: str | Path, results: Mapping[str, Metrics]) -> None:
    """Write results.json ({protocol: {metric: percent}}) and results.csv, each atomically."""
    write_json(Path(output_dir) / "results.json", results)
    with atomic_write(Path(output_dir) / "results.csv") as file:
        names = list(next(iter(results.values())))
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["protocol", *names])
        for protocol, metrics in results.items():
            writer.writerow([printable(protocol), *(metrics[name] for name in names)])


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON atomically.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot represent.
    """
    with atomic_write(path) as file:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        file.write(f"{printable(text)}\n")  # characters that are not valid UTF-8 become JSON escapes


def print_csv_format(results: Mapping[str, Any], chance: Mapping[str, Metrics] | None = None) -> None:
    """Log the results as a table; the name is fast-reid's.

    Args:
        results: {protocol: {figure: percent}}; or {figure: percent} of one data set with its name under "dataset",
            which is removed, as in fast-reid.
        chance: the same of a random order, for some figures; shown below each protocol.

    Raises:
        ValueError: there are no results.
    """
    if not results:
        raise ValueError("there are no results to print")
    if isinstance(results, dict) and not any(isinstance(value, Mapping) for value in results.values()):
        name = results.pop("dataset", "")
        results = {name: results}
    logger.info("Evaluation results in percent:\n%s", results_table(results, chance))


def results_table(results: Mapping[str, Metrics], chance: Mapping[str, Metrics] | None = None) -> str:
    """Return a table with a row per protocol and one for chance; percentages with two decimals, counts as they are."""
    names = list(next(iter(results.values())))
    rows = []
    for protocol, metrics in results.items():
        rows.append([printable(protocol), *(_shown(metrics[name]) for name in names)])
        if expected := (chance or {}).get(protocol):
            rows.append(["chance", *(_shown(expected[name]) if name in expected else "" for name in names)])
    return tabulate(
        rows,
        headers=["Protocol", *names],
        tablefmt="simple_outline",
        disable_numparse=True,
        colalign=["left"] + ["right"] * len(names),
    )


def _shown(value: float | int) -> str:
    return str(value) if isinstance(value, int) else f"{value:.2f}"


def log_breakdown(name: str, breakdown: Mapping[str, list[Row]]) -> None:
    """Log the figures of a protocol by view and by camera."""
    for by, rows in breakdown.items():
        logger.info("%s by %s, in percent:\n%s", name, by, breakdown_table(rows))
