"""Plots are written as pictures and show the scored figures."""

import os

import numpy as np
import pytest
from PIL import Image

from fastreid.evaluation import plots
from fastreid.evaluation.plots import draw_plots
from fastreid.evaluation.roc import Curves, roc_curve
from fastreid.evaluation.scoring import score_features
from fastreid.evaluation.scoring_options import Scoring
from fastreid.retrieval.distances import MatrixDistances
from fastreid.retrieval.matches import match_labels
from tests.evaluation.test_roc import protocol


def curves(seed):
    result = score_features(*protocol(seed, q=40, g=400, dim=16), Scoring(roc=True))
    return Curves(result.cmc, result.roc)


def test_a_picture_for_each_curve_and_protocol(tmp_path):
    paths = draw_plots({"A": curves(1), "B": curves(2)}, tmp_path / "new" / "plots")
    assert [path.name for path in paths] == ["cmc.png", "roc.png", "det.png", "similarity_A.png", "similarity_B.png"]
    for path in paths:
        pixels = np.asarray(Image.open(path).convert("L"))
        assert pixels.shape == (540, 720) and 0.005 < (pixels < 200).mean() < 0.5


def test_lines_are_the_figures():
    curve = curves(3)
    axes = plots._cmc({"A": curve}).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), 100 * curve.cmc[:20])
    axes = plots._roc({"A": curve}).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), 100 * curve.roc.tpr)
    marks = axes.lines[1]
    np.testing.assert_allclose(marks.get_ydata(), [100 * curve.roc.tpr_at(rate)[0] for rate in (1e-3, 1e-2, 5e-2)])
    axes = plots._similarity("A", curve.roc).axes[0]
    assert axes.lines[0].get_xdata()[0] == curve.roc.best_accuracy[1]
    found = [curve.roc.tpr_at(rate) for rate in (1e-3, 1e-2, 5e-2)]
    assert [line.get_xdata()[0] for line in axes.lines[1:]] == [threshold for _, threshold in found]
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts[-1] == f"{found[2][1]:.3f}: 5 % false, {100 * found[2][0]:.1f} % true matches" and len(texts) == 6


def test_a_rate_without_a_threshold_has_no_mark():
    matrix = np.array([[0.5, 0.1, 0.2, 0.9]])
    roc = roc_curve(MatrixDistances(matrix), match_labels([0], [0, 1, 1, 1], [0], [1] * 4))
    assert len(plots._similarity("A", roc).axes[0].lines) == 1
    assert len(plots._roc({"A": Curves(np.ones(20), roc)}).axes[0].lines[1].get_xdata()) == 0


def test_long_curves_are_thinned_to_their_ends():
    x, y = plots._thinned(np.arange(10**5), np.arange(10**5))
    assert len(x) == 4000 and (x[0], x[-1]) == (0, 10**5 - 1) and (x == y).all()


@pytest.mark.filterwarnings("error")
def test_names_are_text_whatever_is_in_them(tmp_path):
    names = ["csv:/a_$b_$c.csv", "csv:/a_$b-$c.csv", "_hidden", "csv:<b>&\\$\\alpha$", "x" * 300, os.fsdecode(b"\xff")]
    curve = curves(1)
    paths = draw_plots(dict.fromkeys(names, curve), tmp_path)
    assert len({path.name for path in paths}) == 3 + len(names) and all(path.parent == tmp_path for path in paths)
    assert paths[3].name == "similarity_csv__a__b__c.csv.png"
    for figure in (plots._cmc, plots._roc, plots._det):
        shown = [text.get_text() for text in figure(dict.fromkeys(names, curve)).axes[0].get_legend().get_texts()]
        assert len(shown) == len(names) and shown[0].startswith(r"csv:/a_\$b_\$c.csv: ")
