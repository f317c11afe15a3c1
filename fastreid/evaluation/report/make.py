"""Makes the report: reads the runs, writes their joined figures and the page, returns the table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jinja2 import UndefinedError

from fastreid.evaluation.report.page import render_page
from fastreid.evaluation.report.runs import ReportError, check_comparable, read_run
from fastreid.evaluation.report.table import text_table
from fastreid.evaluation.results import write_json
from fastreid.utils.display_text import printable
from fastreid.utils.files import atomic_write, check_output
from fastreid.utils.lock import path_lock


def make_report(folders: Mapping[str, str | Path], output: str | Path, results: str | Path | None = None) -> str:
    """Write the page and the joined figures of one or several runs; on an error nothing is written.

    Args:
        folders: {name: output folder} of each run. The first is the one that the others are compared with.
        output: the HTML page.
        results: JSON file, {name: {protocol: figures}}; None for no such file.

    Returns:
        The table as text.

    Raises:
        ReportError: no run is given; a file is missing or broken; or the runs were evaluated on different data.
        InUseError: another process writes the page or the figures.
        OutputError: the page or the figures would replace another file of a run.
    """
    if not folders:
        raise ReportError("a report needs at least one run")
    files = _files_of(folders)
    for path in (output, results):
        if path is not None:
            check_output(path, files)
    runs = [read_run(name, folder) for name, folder in folders.items()]
    try:
        check_comparable(runs)
        page, table = render_page(runs), text_table(runs)
    except (KeyError, IndexError, TypeError, AttributeError, UndefinedError) as error:
        raise ReportError(
            f"the files of {' or '.join(map(str, folders.values()))} are not as this version writes them "
            f"({_in_words(error)}): evaluate again (train_net.py --resume), then make the report"
        ) from error
    with path_lock(output, results), atomic_write(output) as file:
        if results is not None:
            write_json(results, {run.name: run.results for run in runs})
        file.write(printable(page))
    return table


def _files_of(folders: Mapping[str, str | Path]) -> list[Path]:
    """The files of the runs, but for earlier reports."""
    files = [path for folder in folders.values() for path in Path(folder).glob("*") if path.is_file()]
    return [path for path in files if path.name not in ("report.html", "report.json")]


def _in_words(error: Exception) -> str:
    """Return what is missing in files whose reading raised this error."""
    if isinstance(error, KeyError):
        return f"they have no {error.args[0]}" if error.args else "something is missing in them"
    if isinstance(error, IndexError):
        return "a list in them is too short"
    return f"a value in them is of another kind: {error}"
