"""The table of a report: the figures of each run, and chance, for every protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tabulate import tabulate

from fastreid.data.benchmarks import BENCHMARK_OF
from fastreid.evaluation.report.runs import Figures, Run
from fastreid.utils.display_text import printable

FIGURES = ("Rank-1", "mAP", "mINP")


def protocol_title(name: str) -> str:
    """Return the name of a protocol in papers ("A↔G"); one that has none, or is not a benchmark's, keeps its name."""
    benchmark = BENCHMARK_OF.get(name)
    return printable(benchmark.protocol(name).title if benchmark and benchmark.protocol(name).title else name)


def about(name: str) -> str:
    """Return the sentence on what a protocol measures; "" for one that is not a benchmark's."""
    benchmark = BENCHMARK_OF.get(name)
    return benchmark.protocol(name).about if benchmark else ""


def table_rows(runs: Sequence[Run]) -> list[tuple[str, Mapping[str, Figures]]]:
    """Return (title, {protocol: figures in percent}) of each run; the chance level is the last row."""
    return [*((run.title, run.results) for run in runs), ("chance", runs[0].chance)]


def text_table(runs: Sequence[Run]) -> str:
    """Return the table for a terminal; percentages with two decimals."""
    protocols = list(runs[0].results)
    headers = ["%"]
    for protocol in protocols:
        headers += [f"{protocol_title(protocol)}\n{FIGURES[0]}", *(f"\n{f}" for f in FIGURES[1:])]
    rows = [
        [printable(title), *(f"{by_protocol[p][figure]:.2f}" for p in protocols for figure in FIGURES)]
        for title, by_protocol in table_rows(runs)
    ]
    return tabulate(
        rows,
        headers=headers,
        tablefmt="simple",
        disable_numparse=True,
        colalign=["left"] + ["right"] * (len(headers) - 1),
    )
