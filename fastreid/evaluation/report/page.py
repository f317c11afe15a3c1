"""The HTML page: what the template is told, and nothing about how it looks."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from fastreid.evaluation.report.runs import ReportError, Run
from fastreid.evaluation.report.summary import summary_rows
from fastreid.evaluation.report.table import (
    FIGURES,
    ordered_protocols,
    protocol_title,
    table_rows,
)
from fastreid.evaluation.report.thumbnails import thumbnail
from fastreid.utils.optional import optional

VIEW_NAMES = {0: "aerial", 1: "ground", 2: "wearable"}
KINDS = ("best", "median", "worst")
PROTOCOL_NOTES = {
    "CARGO": "Every query against the whole gallery.",
    "CARGO_AG": "Across views: an aerial query must find ground images of its person, and the "
    "other way round. Each view counts as one camera, so same-view images of the person are "
    "removed; those of other people stay.",
    "CARGO_AA": "Aerial queries against the aerial gallery.",
    "CARGO_GG": "Ground queries against the ground gallery.",
}


def render_page(runs: Sequence[Run]) -> str:
    """One self-contained page about the runs, side by side in their order."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"thumbnail": thumbnail, "view": view_name}
    here = resources.files(__package__)
    template = environment.from_string((here / "page.html.j2").read_text(encoding="utf-8"))
    protocols = ordered_protocols(runs[0].results)
    return template.render(
        style=Markup((here / "page.css").read_text(encoding="utf-8")),
        figures=FIGURES,
        runs=runs,
        rows=table_rows(runs),
        titles={protocol: protocol_title(protocol) for protocol in protocols},
        summary=summary_rows(runs),
        curves={run.title: _curves(run) for run in runs},
        sections=[_section(protocol, runs) for protocol in protocols],
    )


def _curves(run: Run) -> Markup:
    if not optional("matplotlib.figure", "the report is without curves"):
        return Markup("<p>Curves are drawn by Matplotlib, which could not be imported.</p>")
    from fastreid.evaluation.report.curves import curves_svg

    return Markup(curves_svg(run))


def view_name(view: int) -> str:
    """ "aerial", "ground", "wearable"; a view without a name keeps its number."""
    return VIEW_NAMES.get(view, f"view {view}")


def _section(protocol: str, runs: Sequence[Run]) -> dict[str, Any]:
    """One protocol: how the runs compare query by query, and the lists of each kind."""
    lists = [run.lists[protocol] for run in runs]
    for path in lists[0]["ap_by_query"]:
        require_queries(path, runs, lists)
    return {
        "name": protocol,
        "title": protocol_title(protocol),
        "note": PROTOCOL_NOTES.get(protocol, ""),
        "valid_queries": runs[0].results[protocol]["valid_queries"],
        "changes": _changes(*(each["ap_by_query"] for each in lists)),
        "kinds": [
            (kind, [[_with_other(q, runs, lists, i) for q in each["queries"] if q["kind"] == kind]
                    for i, each in enumerate(lists)])
            for kind in KINDS
        ],
    }  # fmt: skip


def _with_other(query: dict, runs: Sequence[Run], lists: Sequence[dict], own: int) -> dict:
    """A query with its AP in the other runs, as each run chooses its own best and worst."""
    path = query["query"]["path"]
    require_queries(path, runs, lists)
    others = [
        (run.title, each["ap_by_query"][path])
        for i, (run, each) in enumerate(zip(runs, lists, strict=True))
        if i != own
    ]
    return {**query, "others": others}


def require_queries(path: str, runs: Sequence[Run], lists: Sequence[dict]) -> None:
    """Raises: ReportError if a run has no AP of a query."""
    for run, each in zip(runs, lists, strict=True):
        if path not in each["ap_by_query"]:
            raise ReportError(
                f"ranked_lists.json of {run.title} has no query {path}, which another stage's has: evaluate both again "
                "(train_net.py --resume), then make the report"
            )


def _changes(before: dict[str, float], after: dict[str, float]) -> dict[str, int]:
    """How many queries the second run ranks better, worse and the same, by AP."""
    differences = [after[path] - ap for path, ap in before.items()]
    better, worse = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    return {"better": better, "worse": worse, "same": len(differences) - better - worse}
