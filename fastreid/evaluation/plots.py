"""Plots of an evaluation: match curve, ROC, DET, and the distances of right and wrong pairs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from scipy.special import ndtri

from fastreid.evaluation.roc import Curves, RocCurve
from fastreid.evaluation.thresholds import MATCH_RATES, rate_label
from fastreid.utils.colours import OKABE_ITO
from fastreid.utils.display_text import file_names, for_matplotlib, shortened
from fastreid.utils.files import atomic_write

logger = logging.getLogger(__name__)

SIZE = (4.8, 3.6)  # inches
DPI = 150
CMC_RANKS = 20
_NAME_LENGTH = 40  # letters of a protocol's name: a longer one would leave no room for the curves
LEAST_RATE = 1e-5
RATES = (1e-4, 1e-3, 1e-2, 0.05, 0.2, 0.5, 0.8, 0.95)  # ticks of the DET curve
DASHES = ("-", "--", ":", "-.")
_BESIDE: dict[str, Any] = {"xytext": (-4, 0), "textcoords": "offset points", "ha": "right", "fontsize": 7}


def draw_plots(curves: Mapping[str, Curves], folder: str | Path) -> list[Path]:
    """Write cmc.png, roc.png and det.png with all protocols, and one similarity_PROTOCOL.png for each.

    Characters that a file name cannot have become "_".

    Args:
        curves: curves of each protocol.
        folder: where to write; created if it does not exist.

    Returns:
        The paths of the pictures.

    Raises:
        DiskError: the disk is full or broken.
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = file_names(curves)
    pictures = {"cmc": _cmc(curves), "roc": _roc(curves), "det": _det(curves)}
    pictures |= {f"similarity_{files[name]}": _similarity(name, curve.roc) for name, curve in curves.items()}
    paths = []
    for name, figure in pictures.items():
        paths.append(folder / f"{name}.png")
        with atomic_write(paths[-1], "wb") as file:
            figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    logger.info("plots written to %s", folder.resolve())
    return paths


def new_axes(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    """Return a figure with one diagram.

    Args:
        title: its title.
        x: label of the horizontal axis.
        y: label of the vertical axis.
    """
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _styles(curves: Mapping[str, Curves]) -> list[tuple[str, Curves, dict[str, Any]]]:
    return [
        (name, curve, {"color": OKABE_ITO[i % len(OKABE_ITO)], "linestyle": DASHES[i % len(DASHES)], "linewidth": 1.6})
        for i, (name, curve) in enumerate(curves.items())
    ]


def _label(name: str, share: float) -> str:
    return for_matplotlib(f"{shortened(name, _NAME_LENGTH)}: {100 * share:.1f}")


def _cmc(curves: Mapping[str, Curves]) -> Figure:
    figure, axes = new_axes("Cumulative match curve", "rank", "queries matched, %")
    for name, curve, style in _styles(curves):
        ranks = np.arange(1, min(CMC_RANKS, len(curve.cmc)) + 1)
        axes.plot(ranks, 100 * curve.cmc[: len(ranks)], marker=".", label=_label(name, curve.cmc[0]), **style)
    axes.set_xticks([1, 5, 10, 15, 20])
    axes.set_ylim(top=101)
    axes.legend(title="Rank-1", loc="lower right", frameon=False)
    return figure


def _roc(curves: Mapping[str, Curves]) -> Figure:
    figure, axes = new_axes("Receiver operating characteristic", "wrong pairs accepted", "right pairs accepted, %")
    for name, curve, style in _styles(curves):
        label = _label(name, curve.roc.tpr_at(1e-3)[0])
        # A logarithmic axis has no zero: a rate of zero is drawn at the left edge.
        rates = np.maximum(curve.roc.fpr, LEAST_RATE)
        axes.step(*_thinned(rates, 100 * curve.roc.tpr), where="post", label=label, **style)
        points = [point for rate in MATCH_RATES if (point := curve.roc.point_at(rate)) is not None]
        axes.plot(rates[points], 100 * curve.roc.tpr[points], "o", markersize=4, color=style["color"])
    for rate in MATCH_RATES:
        axes.axvline(rate, color="#999999", linewidth=0.8, linestyle=":")
        axes.annotate(rate_label(rate), (rate, 0.01), xycoords=("data", "axes fraction"), **_BESIDE)
    axes.set_xscale("log")
    axes.set_xlim(LEAST_RATE, 1)
    axes.set_ylim(0, 101)
    axes.legend(title="at 1e-3", loc="upper left", frameon=False)
    return figure


def add_roc(axes: Axes, fpr: np.ndarray, tpr: np.ndarray, name: str) -> None:
    """Add the ROC curve of a model to a diagram.

    Args:
        axes: the diagram.
        fpr: shares of accepted wrong pairs, 0..1, ascending.
        tpr: shares of accepted right pairs, 0..1.
        name: name of the model.
    """
    axes.step(
        *_thinned(np.maximum(fpr, LEAST_RATE), 100 * tpr), where="post", label=for_matplotlib(name), linewidth=1.6
    )
    axes.set_xscale("log")
    axes.set_xlim(LEAST_RATE, 1)
    axes.set_ylim(0, 101)
    axes.legend(loc="lower right", frameon=False)


def add_histogram(axes: Axes, distances: np.ndarray, name: str) -> None:
    """Add the histogram of the distances of pairs to a diagram.

    Args:
        axes: the diagram.
        distances: the distances.
        name: which pairs they are of.
    """
    axes.hist(distances, bins=80, density=True, alpha=0.5, label=for_matplotlib(name))
    axes.legend(loc="upper right", frameon=False)


def _det(curves: Mapping[str, Curves]) -> Figure:
    """Draw on normal deviates, so that normally distributed distances give straight lines (Martin et al., 1997)."""
    figure, axes = new_axes("Detection error trade-off", "wrong pairs accepted, %", "right pairs rejected, %")
    low, high = RATES[0], 1 - RATES[0]
    for name, curve, style in _styles(curves):
        accepted, rejected = np.clip(curve.roc.fpr, low, high), np.clip(1 - curve.roc.tpr, low, high)
        label = _label(name, curve.roc.equal_error_rate)
        axes.step(*_thinned(ndtri(accepted), ndtri(rejected)), where="post", label=label, **style)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(ndtri(RATES)))
        axis.set_major_formatter(FixedFormatter([f"{100 * rate:g}" for rate in RATES]))
        axis.set_minor_locator(NullLocator())
    axes.set_xlim(ndtri(low), ndtri(0.6))
    axes.set_ylim(ndtri(low), ndtri(0.96))
    axes.axline((0, 0), slope=1, color="#999999", linewidth=0.8)
    axes.legend(title="equal error, %", loc="lower left", frameon=False)
    return figure


def _similarity(name: str, roc: RocCurve) -> Figure:
    figure, axes = new_axes(
        for_matplotlib(f"{shortened(name, _NAME_LENGTH)}: distances of pairs"),
        "distance",
        "share of pairs in a bin, %",
    )
    shown = np.flatnonzero(roc.right_histogram + roc.wrong_histogram)
    for label, histogram, colour in (
        (f"{roc.num_right:,} of one person", roc.right_histogram, OKABE_ITO[0]),
        (f"{roc.num_wrong:,} of two people", roc.wrong_histogram, OKABE_ITO[1]),
    ):
        axes.stairs(100 * histogram / histogram.sum(), roc.edges, fill=True, alpha=0.45, color=colour, label=label)
    accuracy, threshold = roc.best_accuracy
    marks = [(f"balanced accuracy {100 * accuracy:.1f} %", threshold)]
    for rate in MATCH_RATES:
        share, threshold = roc.tpr_at(rate)
        marks.append((f"{rate_label(rate)} false, {100 * share:.1f} % true matches", threshold))
    for dashes, (label, threshold) in zip(DASHES, marks, strict=True):
        if np.isfinite(threshold):
            label = f"{threshold:.3f}: {label}"
            axes.axvline(threshold, color="#444444", linewidth=1, linestyle=dashes, label=label)
    axes.set_xlim(roc.edges[shown[0]], roc.edges[shown[-1] + 1])
    axes.set_ylim(bottom=0, top=1.7 * axes.get_ylim()[1])  # room for the legend
    axes.legend(loc="upper right", frameon=False, fontsize=7)
    return figure


def _thinned(x: np.ndarray, y: np.ndarray, count: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `count` of the points: more are slow to draw and look the same."""
    if len(x) <= count:
        return x, y
    chosen = np.unique(np.linspace(0, len(x) - 1, count).astype(int))
    return x[chosen], y[chosen]
