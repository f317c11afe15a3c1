"""The HTML page of a report: collects what the template shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from fastreid.evaluation.report.failed import confusion_column, failed_column
from fastreid.evaluation.report.patches import patch_pictures
from fastreid.evaluation.report.runs import ReportError, Run
from fastreid.evaluation.report.summary import summary_rows
from fastreid.evaluation.report.table import FIGURES, about, protocol_title, table_rows
from fastreid.evaluation.report.thumbnails import thumbnail
from fastreid.structures.view import view_name
from fastreid.utils.optional import optional

KINDS = ("best", "median", "worst")
SHOWN_FAILURES, LEAST_FAILURES = (
    200,
    10,
)  # failed queries with pictures: in the page, and at least of a protocol and run


def render_page(runs: Sequence[Run]) -> str:
    """Return one self-contained page about the runs, side by side in their order."""
    thumbnail.cache_clear()  # files may have changed since an earlier report of this process
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"thumbnail": thumbnail, "view": view_name}
    here = resources.files(__package__)
    template = environment.from_string((here / "page.html.j2").read_text(encoding="utf-8"))
    protocols = list(runs[0].results)
    return template.render(
        style=Markup((here / "page.css").read_text(encoding="utf-8")),
        figures=FIGURES,
        runs=runs,
        rows=table_rows(runs),
        titles={protocol: protocol_title(protocol) for protocol in protocols},
        summary=summary_rows(runs),
        curves=[_curves(run, f"run{number}") for number, run in enumerate(runs, start=1)],
        patches=[pictures for run in runs if (pictures := patch_pictures(run.folder, run.title))],
        sections=[_section(protocol, runs) for protocol in protocols],
        thresholds=_thresholds(protocols, runs),
    )


def _curves(run: Run, prefix: str) -> Markup:
    if not optional("matplotlib.figure", "the report is without curves"):
        return Markup("<p>Curves are drawn by Matplotlib, which could not be imported.</p>")
    from fastreid.evaluation.report.curves import curves_svg

    return Markup(curves_svg(run, prefix))


def _thresholds(protocols: Sequence[str], runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the title of each protocol, and the operating points of each run that has them."""
    tables = []
    for protocol in protocols:
        rows = [(run.title, point) for run in runs for point in run.thresholds.get(protocol, {"points": []})["points"]]
        if rows:
            tables.append({"title": protocol_title(protocol), "rows": rows})
    return tables


def _section(protocol: str, runs: Sequence[Run]) -> dict[str, Any]:
    """Return what is shown of one protocol: how the runs compare query by query, and the lists of each kind."""
    lists = [run.lists[protocol] for run in runs]
    for path in lists[0]["ap_by_query"]:
        require_queries(path, runs, lists)
    first, *others = (each["ap_by_query"] for each in lists)
    count = max(LEAST_FAILURES, SHOWN_FAILURES // (len(runs) * len(runs[0].results)))
    pictured = [query for each in lists for query in each["queries"]]
    return {
        "name": protocol,
        "title": protocol_title(protocol),
        "note": about(protocol),
        "valid_queries": runs[0].results[protocol]["valid_queries"],
        "changes": [_changes(first, other) for other in others],
        "kinds": [
            (kind, [[_with_others(q, runs, lists, i) for q in each["queries"] if q["kind"] == kind]
                    for i, each in enumerate(lists)])
            for kind in KINDS
        ],
        "has_views": any(len(each["views"]) > 1 for each in lists),
        "has_camera_numbers": any("camera_name" not in query["query"] for query in pictured),
        "failed": [
            failed_column(each, [_with_others(q, runs, lists, i) for q in each["failed"][:count]])
            for i, each in enumerate(lists)
        ],
        "confusions": [confusion_column(each["confusions"]) for each in lists],
    }  # fmt: skip


def _with_others(query: Mapping[str, Any], runs: Sequence[Run], lists: Sequence[dict], own: int) -> dict[str, Any]:
    """Add the query's AP in the other runs, as each run chooses its own best and worst queries."""
    path = query["query"]["path"]
    require_queries(path, runs, lists)
    others = [
        (run.title, each["ap_by_query"][path])
        for i, (run, each) in enumerate(zip(runs, lists, strict=True))
        if i != own
    ]
    return {**query, "others": others}


def require_queries(path: str, runs: Sequence[Run], lists: Sequence[dict]) -> None:
    """Check that every run has the AP of a query.

    Raises:
        ReportError: names a run that does not.
    """
    for run, each in zip(runs, lists, strict=True):
        if path not in each["ap_by_query"]:
            raise ReportError(
                f"ranked_lists.json of {run.title} has no query {path}, which another run's has: evaluate both again "
                "(train_net.py --resume), then make the report"
            )


def _changes(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, int]:
    """Count the queries whose AP in the second run is better, worse and the same."""
    differences = [after[path] - ap for path, ap in before.items()]
    better, worse = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    return {"better": better, "worse": worse, "same": len(differences) - better - worse}
