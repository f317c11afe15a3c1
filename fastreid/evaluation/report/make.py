"""From two run folders to results.json, the table and the page."""

from __future__ import annotations

from pathlib import Path

from jinja2 import UndefinedError

from fastreid.evaluation.report.page import render_page
from fastreid.evaluation.report.runs import ReportError, check_comparable, read_run
from fastreid.evaluation.report.table import text_table
from fastreid.evaluation.results import write_json
from fastreid.utils.files import atomic_write
from fastreid.utils.lock import path_lock
from fastreid.utils.plain import printable


def make_report(stage1: str | Path, stage2: str | Path, output: str | Path, results: str | Path) -> str:
    """Write the page and the joined figures of a two-stage run; nothing is written on an error.

    Args:
        stage1, stage2: output folders of the two trainings.
        output: the HTML page.
        results: JSON file, {"stage1": {protocol: figures}, "stage2": ...}.
    Returns: the table as text.
    Raises:
        ReportError: an input is missing, broken, or about other data than its partner.
        InUseError: another process writes the page or the figures.
    """
    runs = read_run("stage1", stage1), read_run("stage2", stage2)
    try:
        check_comparable(*runs)
        page, table = render_page(runs), text_table(runs)
    except (KeyError, IndexError, TypeError, AttributeError, UndefinedError) as error:
        raise ReportError(
            f"the files of {stage1} or {stage2} are not as this version writes them ({_in_words(error)}): "
            "evaluate both again (train_net.py --resume), then make the report"
        ) from error
    with path_lock(output, results), atomic_write(output) as file:
        write_json(results, {run.name: run.results for run in runs})
        file.write(printable(page))
    return table


def _in_words(error: Exception) -> str:
    """What files lack that made this error of reading them."""
    if isinstance(error, KeyError):
        return f"they have no {error.args[0]}" if error.args else "something is missing in them"
    if isinstance(error, IndexError):
        return "a list in them is too short"
    return f"a value in them is of another kind: {error}"
