"""fast-reid's interface of the rank evaluation."""

import numpy as np

from fastreid.evaluation import evaluate_rank


def test_the_curve_has_fifty_ranks_by_default():
    distances = np.arange(60.0)[None]
    cmc, ap, inp = evaluate_rank(distances, [1], [0] * 59 + [1], [0], [1] * 60)
    assert cmc.shape == (50,) and not cmc.any()  # the only right image has rank 60
    assert ap.tolist() == inp.tolist() == [1 / 60]
