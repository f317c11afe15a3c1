"""The one table: stage 1, stage 2 and chance against every protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tabulate import tabulate

from fastreid.evaluation.report.runs import Figures, Run
from fastreid.utils.plain import printable

FIGURES = ("Rank-1", "mAP", "mINP")
PROTOCOL_TITLES = {"CARGO": "ALL", "CARGO_AG": "A↔G", "CARGO_AA": "A↔A", "CARGO_GG": "G↔G"}


def protocol_title(name: str) -> str:
    """How papers name a protocol ("A↔G"); a name without a title prints as it is."""
    return printable(PROTOCOL_TITLES.get(name, name))


def ordered_protocols(results: Mapping[str, Figures]) -> list[str]:
    """Titled protocols in the order of papers, then the others in the order of the file."""
    known = [name for name in PROTOCOL_TITLES if name in results]
    return known + [name for name in results if name not in PROTOCOL_TITLES]


def table_rows(runs: Sequence[Run]) -> dict[str, dict[str, Figures]]:
    """Row title -> protocol -> figures in percent; the chance level is the last row."""
    return {**{run.title: run.results for run in runs}, "chance": runs[0].chance}


def text_table(runs: Sequence[Run]) -> str:
    """The table for a terminal; percentages with two decimals."""
    protocols = ordered_protocols(runs[0].results)
    headers = ["%"]
    for protocol in protocols:
        headers += [f"{protocol_title(protocol)}\n{FIGURES[0]}", *(f"\n{f}" for f in FIGURES[1:])]
    rows = [
        [title, *(f"{by_protocol[p][figure]:.2f}" for p in protocols for figure in FIGURES)]
        for title, by_protocol in table_rows(runs).items()
    ]
    return tabulate(
        rows,
        headers=headers,
        tablefmt="simple",
        disable_numparse=True,
        colalign=["left"] + ["right"] * (len(headers) - 1),
    )
