"""Training curves as inline SVG in the colours of the page, light or dark."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from io import StringIO
from typing import Any

import matplotlib
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastreid.evaluation.report.runs import Run
from fastreid.evaluation.report.table import protocol_title
from fastreid.utils.display_text import for_matplotlib

# Matplotlib needs colours; these placeholders are replaced by the page's own variables in the SVG.
INK, RULE = "#010203", "#040506"
SERIES = ("#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05", "#0a0b06")
PLACEHOLDERS = {INK: "var(--ink-soft)", RULE: "var(--rule)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)
}
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1)), (0, (8, 3)))

PANEL_WIDTH = 4.2  # inches
PIXELS_PER_INCH = 110  # on the page: makes 9 pt letters 14 px

Curve = tuple[list[float], list[float]]
Panel = tuple[str, dict[str, Curve]]


def curves_svg(run: Run, prefix: str) -> str:
    """Return the losses, the learning rate and, if evaluated repeatedly, mAP over iterations; "" if there are none.

    Args:
        run: of which the curves are.
        prefix: prefix of the ids in the SVG, which must be unique in the page.
    """
    panels = [panel for panel in _panels(run.records) if panel[1]]
    if not panels:
        return ""
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": prefix, "font.size": 9}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(PANEL_WIDTH * len(panels), 2.6), layout="constrained")
        row = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, panel in zip(row, panels, strict=True):
            _draw(axes, *panel)
        out = StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return _for_the_page(out.getvalue(), prefix, run.title, PIXELS_PER_INCH * figure.get_figwidth())


def _panels(records: Sequence[dict[str, Any]]) -> list[Panel]:
    names = list(dict.fromkeys(key for record in records for key in record))
    losses = [name for name in names if "loss" in name]
    maps = [name for name in names if name.endswith("/mAP")]
    map_series = _series(records, maps, lambda name: protocol_title(name.removesuffix("/mAP")))
    often = {name: xy for name, xy in map_series.items() if len(xy[0]) > 1}
    return [
        ("loss", _series(records, losses, lambda name: name.replace("_", " "))),
        ("learning rate", _series(records, [n for n in names if n == "lr"], str)),
        ("mAP in percent", often),
    ]


def _series(records: Sequence[dict[str, Any]], names: Sequence[str], label: Callable[[str], str]) -> dict[str, Curve]:
    series: dict[str, Curve] = {}
    for name in names:
        points = [(record["iteration"], record[name]) for record in records if name in record]
        curve = [x for x, _ in points], [y for _, y in points]
        if curve not in series.values():  # the total of a single loss is the same curve
            series[for_matplotlib(label(name))] = curve
    return series


def _draw(axes: Axes, title: str, series: dict[str, Curve]) -> None:
    for number, (label, (iterations, values)) in enumerate(series.items()):
        style: dict[str, Any] = {"color": SERIES[number % len(SERIES)], "linestyle": DASHES[number % len(DASHES)]}
        axes.plot(iterations, values, label=label, linewidth=1.6, **style)
    axes.set_title(title, loc="left", color=INK, fontsize=10)
    axes.set_xlabel("iteration", color=INK)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.tick_params(colors=INK, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    if len(series) > 1:
        axes.legend(frameon=False, labelcolor=INK, fontsize=8)


def _for_the_page(svg: str, prefix: str, title: str, width: float) -> str:
    """Return only the <svg> element, `width` pixels wide, with unique ids and the colours of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Only in tags: a name between them may look like anything.
    svg = re.sub(r"<[^>]*>", lambda tag: _tag_for_the_page(tag[0], prefix), svg)
    label = f'role="img" aria-label="training curves of {escape(title)}" width="{width:.0f}"'
    return re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', lambda found: f"<svg {label} {found[1]}>", svg, count=1)


def _tag_for_the_page(tag: str, prefix: str) -> str:
    tag = re.sub(r' xmlns(:\w+)?="[^"]*"', "", tag)  # HTML needs no namespaces
    tag = re.sub(r'\bid="', f'id="{prefix}-', tag)
    tag = re.sub(r'(url\(|href=")#', rf"\1#{prefix}-", tag)
    for placeholder, colour in PLACEHOLDERS.items():
        tag = tag.replace(placeholder, colour)
    return tag
