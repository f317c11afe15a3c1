"""Figures that a config expects of its run (TEST.EXPECTED_RESULTS), and their comparison with an evaluation."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from fastreid.config import CfgNode, ConfigError
from fastreid.config.ranges import FINITE, NAME, NOT_NEGATIVE, shortened
from fastreid.evaluation.attributes import ATTRIBUTE_FIGURES
from fastreid.evaluation.roc import ROC_FIGURES
from fastreid.evaluation.scoring import FIGURES, recall_name
from fastreid.modeling.model import ATTRIBUTES, evaluation_of
from fastreid.utils import comm
from fastreid.utils.errors import UserError
from fastreid.utils.suggest import explain_choice

logger = logging.getLogger(__name__)

KEY = "TEST.EXPECTED_RESULTS"
_ROUNDING = 1e-9  # 51.8 - 50.8 is slightly more than 1 in floating point
_SHOWN = 5

Results = Mapping[str, Mapping[str, float | int]]


class UnexpectedResultsError(UserError):
    """Figures of a run are missing, or are not within the tolerances of TEST.EXPECTED_RESULTS."""


@dataclass(frozen=True)
class ExpectedFigure:
    """A row of TEST.EXPECTED_RESULTS.

    Attributes:
        protocol: name of the protocol, as in DATASETS.TESTS.
        figure: name of the figure, as in results.json.
        value: the expected figure, in percent unless it is a count.
        tolerance: greatest difference that is accepted.
    """

    protocol: str
    figure: str
    value: float
    tolerance: float

    def measured(self, results: Results) -> float | int | None:
        """Return this figure of an evaluation; None if it is missing."""
        return results.get(self.protocol, {}).get(self.figure)

    def verdict(self, results: Results) -> str:
        """Return "ok", "off" or "missing"."""
        measured = self.measured(results)
        if measured is None:
            return "missing"
        return "ok" if abs(measured - self.value) <= self.tolerance + _ROUNDING else "off"  # NaN is off


def expected_figures(cfg: CfgNode) -> list[ExpectedFigure]:
    """Return the rows of TEST.EXPECTED_RESULTS; names of protocols and figures are not checked.

    Args:
        cfg: the config.

    Raises:
        ConfigError: a row is not [protocol, figure, value, tolerance]; the message names it.
    """
    return [_parsed(row, number) for number, row in enumerate(cfg.TEST.EXPECTED_RESULTS, start=1)]


def _parsed(row: Any, number: int) -> ExpectedFigure:
    rules = (NAME, NAME, FINITE, NOT_NEGATIVE)
    if not (
        isinstance(row, list | tuple)
        and len(row) == len(rules)
        and all(rule.holds(entry) for rule, entry in zip(rules, row, strict=True))
    ):
        raise ConfigError(
            f"{KEY}, row {number} must be [protocol, figure, value, tolerance], two names, a number and a number of 0 "
            f"or more, as in [['CARGO_AG', 'mAP', 50.8, 3.0]], got {shortened(row)}"
        )
    return ExpectedFigure(*row)


def check_expected_results(cfg: CfgNode, *, to_verify: bool) -> None:
    """Check TEST.EXPECTED_RESULTS before a run of `DefaultTrainer`.

    Args:
        cfg: the config.
        to_verify: whether the results will be compared with it. If not, it may be empty, and may name protocols that
            this run does not evaluate.

    Raises:
        ConfigError: a row that is malformed, whose figure does not exist, or that the run cannot have; no rows. The
            message names the row and the legal values.
    """
    rows = expected_figures(cfg)
    known = (*FIGURES, *ROC_FIGURES, *map(recall_name, cfg.TEST.RECALLS))
    if rows and evaluation_of(cfg) == ATTRIBUTES:
        known = ATTRIBUTE_FIGURES
    for number, row in enumerate(rows, start=1):
        where = f"{KEY}, row {number}"
        if row.figure not in known:
            raise ConfigError(f"{where}: {explain_choice('figure', row.figure, known)}")
        if to_verify and row.protocol not in cfg.DATASETS.TESTS:
            choice = explain_choice("protocol", row.protocol, cfg.DATASETS.TESTS)
            raise ConfigError(f"{where}: {choice} (DATASETS.TESTS)")
        if to_verify and row.figure in ROC_FIGURES and not cfg.TEST.ROC.ENABLED:
            raise ConfigError(f"{where}: {row.figure} is computed only with TEST.ROC.ENABLED True")
    if to_verify and not rows:
        raise ConfigError(
            f"{KEY} is empty, so there is nothing to verify: set it to rows [protocol, figure, value, tolerance], as "
            "in [['CARGO_AG', 'mAP', 50.8, 3.0]]"
        )


def verify_results(cfg: CfgNode, results: Results) -> None:
    """Compare the results of an evaluation with TEST.EXPECTED_RESULTS, and log a table; the name is detectron2's.

    Every process must call it. Those of the main process count, which alone logs.

    Args:
        cfg: the config.
        results: {protocol: {figure: number}}.

    Raises:
        UnexpectedResultsError: in every process, if a figure is missing or not within its tolerance.
        ConfigError: a malformed row.
    """
    rows, problem = expected_figures(cfg), None
    if comm.is_main_process():
        problem = _problem(rows, results)
        log = logger.error if problem else logger.info
        log("Results and those that the config expects:\n%s", comparison_table(rows, results))
    # The other processes wait here, so that none ends the run before the table is logged.
    if problem := comm.broadcast(problem):
        raise UnexpectedResultsError(f"{problem}. All results are in {Path(cfg.OUTPUT_DIR) / 'results.json'}")


def _problem(rows: Sequence[ExpectedFigure], results: Results) -> str | None:
    wrong = [row for row in rows if row.verdict(results) != "ok"]
    if not wrong:
        return None
    listed = "; ".join(
        f"{row.protocol} {row.figure} is {_shown(row.measured(results))}, expected {_expected(row)}"
        for row in wrong[:_SHOWN]
    )
    more = f"; and {len(wrong) - _SHOWN} more" if wrong[_SHOWN:] else ""
    return f"{len(wrong)} of the {len(rows)} figures in {KEY} are missing or not within their tolerance: {listed}{more}"


def comparison_table(rows: Sequence[ExpectedFigure], results: Results) -> str:
    """Return a table with a line per expected figure: the expected and the measured value, and the verdict.

    Args:
        rows: the expected figures.
        results: {protocol: {figure: number}}.
    """
    lines = [
        [row.protocol, row.figure, _expected(row), _shown(row.measured(results)), row.verdict(results)] for row in rows
    ]
    return tabulate(
        lines,
        headers=["Protocol", "Figure", "Expected", "Measured", "Verdict"],
        tablefmt="simple_outline",
        disable_numparse=True,
        colalign=["left", "left", "right", "right", "left"],
    )


def _expected(row: ExpectedFigure) -> str:
    return f"{row.value:.10g} ± {row.tolerance:.10g}"


def _shown(value: float | int | None) -> str:
    if value is None:
        return "missing"
    return str(value) if isinstance(value, int) else f"{value:.2f}"
