"""Plots are written, are pictures, and show what was scored."""

import numpy as np
from PIL import Image

from fastreid.evaluation import plots
from fastreid.evaluation.plots import draw_plots
from fastreid.evaluation.roc import Curves
from fastreid.evaluation.score import score_features
from fastreid.evaluation.scoring import Scoring
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
    axes = plots._similarity("A", curve.roc).axes[0]
    assert axes.lines[0].get_xdata()[0] == curve.roc.best_accuracy[1]


def test_long_curves_are_thinned_to_their_ends():
    x, y = plots._drawn(np.arange(10**5), np.arange(10**5))
    assert len(x) == 4000 and (x[0], x[-1]) == (0, 10**5 - 1) and (x == y).all()
