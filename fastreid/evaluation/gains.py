"""What some models gain over a first one: tables and a plot, with the spread over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from fastreid.utils.colours import OKABE_ITO
from fastreid.utils.display_text import exact_percent, for_matplotlib
from fastreid.utils.errors import UserError
from fastreid.utils.files import atomic_write
from fastreid.utils.text import TextError, read_json

FIGURES = ("mAP", "Rank-1")
_DPI = 150


@dataclass(frozen=True)
class Result:
    """The figures of one run.

    Args:
        setting: what was trained.
        ratio: share of the training data; None for all of it.
        name: the model.
        seed: its seed.
        figures: figures in percent, by name.
    """

    setting: str
    ratio: float | None
    name: str
    seed: int
    figures: dict[str, float]

    @property
    def row(self) -> str:
        """Name of its row in the table."""
        return self.setting if self.ratio is None else f"{self.setting} {exact_percent(self.ratio)} %"


def mean_and_spread(values: Sequence[float], sign: str = "") -> str:
    """Return "mean ± standard deviation" with one decimal; "–" without values.

    Args:
        values: one of each seed.
        sign: "+" to show the sign of the mean.
    """
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.1f}{spread}"


class Gains:
    """Results of several models, compared with the first.

    Args:
        results: of all runs that are finished.
        names: the models; the others are compared with the first.
    """

    def __init__(self, results: Iterable[Result], names: Sequence[str]) -> None:
        self.names = list(names)
        self._of: dict[tuple[str, float | None], dict[str, dict[int, dict[str, float]]]] = {}
        for result in results:
            group = self._of.setdefault((result.setting, result.ratio), {})
            group.setdefault(result.name, {})[result.seed] = result.figures

    def values(self, setting: str, ratio: float | None, name: str, figure: str) -> list[float]:
        """Return one value of each finished seed."""
        return [figures[figure] for figures in self._of.get((setting, ratio), {}).get(name, {}).values()]

    def gains(self, setting: str, ratio: float | None, name: str, figure: str) -> list[float]:
        """Return the difference from the first model with the same seed, for each seed that both have finished."""
        group = self._of.get((setting, ratio), {})
        first, own = (group.get(model, {}) for model in (self.names[0], name))
        return [own[seed][figure] - first[seed][figure] for seed in own if seed in first]

    def table(self) -> str:
        """Return the table as Markdown: mAP / Rank-1 of each model, and the gain of the others over the first."""
        others = self.names[1:]
        headers = ["mAP / Rank-1 (%)", *self.names, *(f"gain of {name}" for name in others)]
        rows = []
        for setting, ratio in self._of:
            title = Result(setting, ratio, "", 0, {}).row
            cells = [self._cell(self.values, setting, ratio, name) for name in self.names]
            rows.append([title, *cells, *(self._cell(self.gains, setting, ratio, name, "+") for name in others)])
        return tabulate(rows, headers, "github", disable_numparse=True)

    def _cell(self, values: Any, setting: str, ratio: float | None, name: str, sign: str = "") -> str:
        return " / ".join(mean_and_spread(values(setting, ratio, name, figure), sign) for figure in FIGURES)

    def summary(self) -> list[dict[str, Any]]:
        """Return a record for each setting, ratio and model: values, mean, spread and gain of each figure."""
        return [
            {"setting": setting, "ratio": ratio, "backbone": name}
            | {figure: self._record(setting, ratio, name, figure) for figure in FIGURES}
            for setting, ratio in self._of
            for name in self.names
        ]

    def _record(self, *which: Any) -> dict[str, Any]:
        values, gains = self.values(*which), self.gains(*which)
        return {"values": values, **_moments(values, ""), **_moments(gains, "gain_")}

    def draw(self, path: Path, whole: str = "") -> bool:
        """Draw both figures over the ratio, a panel for each setting that has ratios.

        Args:
            path: the PNG file to write.
            whole: the setting with all training data, whose figures are drawn at 100 %; "" for none.

        Returns:
            Whether there was anything to draw.
        """
        from matplotlib.figure import Figure

        settings = list(dict.fromkeys(setting for setting, ratio in self._of if ratio is not None))
        if not settings:
            return False
        drawing = Figure(figsize=(4.2 * len(settings), 6.0), layout="constrained")
        panels = drawing.subplots(len(FIGURES), len(settings), squeeze=False)
        for column, setting in enumerate(settings):
            for row, figure in enumerate(FIGURES):
                self._draw_panel(panels[row][column], setting, figure, whole)
        panels[0][0].legend(frameon=False)
        with atomic_write(path, "wb") as file:
            drawing.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
        return True

    def _draw_panel(self, axes: Any, setting: str, figure: str, whole: str) -> None:
        ratios = sorted(ratio for found, ratio in self._of if found == setting and ratio is not None)
        for number, name in enumerate(self.names):
            points = [(100 * ratio, self.values(setting, ratio, name, figure)) for ratio in ratios]
            if 1.0 not in ratios:
                points.append((100.0, self.values(whole, None, name, figure)))
            shown = [(x, _moments(values, "")) for x, values in points if values]
            axes.errorbar(
                [x for x, _ in shown],
                [found["mean"] for _, found in shown],
                yerr=[found["spread"] or 0.0 for _, found in shown],
                label=for_matplotlib(name),
                color=OKABE_ITO[number % len(OKABE_ITO)],
                marker="o",
                markersize=4,
                capsize=3,
            )
        axes.set(title=setting.replace("_", " "), xlabel="share of the training data, %", ylabel=f"{figure}, %")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#dddddd", linewidth=0.6)


def _moments(values: Sequence[float], prefix: str) -> dict[str, float | None]:
    """Return mean and standard deviation; None where there are too few values."""
    return {
        f"{prefix}mean": statistics.mean(values) if values else None,
        f"{prefix}spread": statistics.stdev(values) if len(values) > 1 else None,
    }


def refuse_to_lose(file: Path, planned: Iterable[tuple[str, float | None, str, int]]) -> None:
    """Check that the results of an earlier command would not be replaced by those of fewer runs.

    Args:
        file: results.json.
        planned: setting, ratio, model and seed of each run of this command.

    Raises:
        UserError: it has results of other runs.
    """
    known = set(planned)
    try:
        found = [(run["setting"], run["ratio"], run["name"], run["seed"]) for run in read_json(file)["runs"]]
    except (FileNotFoundError, TextError, KeyError, TypeError):
        return  # there is none that can be read
    if others := [run for run in found if run not in known]:
        setting, ratio, name, seed = others[0]
        share = "" if ratio is None else f" {exact_percent(ratio)} %"
        raise UserError(
            f"{file} has results of {len(others)} runs that this command does not have, such as {setting}{share}, "
            f"{name}, seed {seed}. Nothing was changed: give their settings, ratios, backbones and seeds as well, or "
            "another --output"
        )
