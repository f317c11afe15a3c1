"""Figures of a run as people and programs read them: a table, results.json, results.csv."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

from fastreid.utils.files import atomic_write
from fastreid.utils.plain import printable

logger = logging.getLogger(__name__)

Metrics = Mapping[str, float | int]


def results_table(results: Mapping[str, Metrics]) -> str:
    """One row a protocol, percentages with two decimals, counts as they are."""
    names = list(next(iter(results.values())))
    rows = [[protocol, *(_shown(metrics[name]) for name in names)] for protocol, metrics in results.items()]
    return tabulate(
        rows,
        headers=["Protocol", *names],
        tablefmt="simple_outline",
        disable_numparse=True,
        colalign=["left"] + ["right"] * len(names),
    )


def write_results(output_dir: str | Path, results: Mapping[str, Metrics]) -> None:
    """Write results.json ({protocol: {metric: percent}}) and results.csv, each in one piece."""
    write_json(Path(output_dir) / "results.json", results)
    with atomic_write(Path(output_dir) / "results.csv") as file:
        names = list(next(iter(results.values())))
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["protocol", *names])
        for protocol, metrics in results.items():
            writer.writerow([printable(protocol), *(metrics[name] for name in names)])


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON in one piece; a NaN is an error, as it is not JSON."""
    with atomic_write(path) as file:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        file.write(f"{printable(text)}\n")  # what is not UTF-8 becomes the escapes of JSON


def print_csv_format(results: Mapping[str, Metrics]) -> None:
    """Log the results as a table; the name is fast-reid's."""
    if not results:
        raise ValueError("there are no results to print")
    logger.info("Evaluation results in percent:\n%s", results_table(results))


def _shown(value: float | int) -> str:
    return str(value) if isinstance(value, int) else f"{value:.2f}"
