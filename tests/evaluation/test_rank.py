"""fast-reid's interface of the rank evaluation."""

import numpy as np

from fastreid.evaluation import evaluate_rank, rank


def test_the_curve_has_fifty_ranks_by_default():
    distances = np.arange(60.0)[None]
    cmc, ap, inp = evaluate_rank(distances, [1], [0] * 59 + [1], [0], [1] * 60)
    assert cmc.shape == (50,) and not cmc.any()  # the only right image has rank 60
    assert ap.tolist() == inp.tolist() == [1 / 60]


def test_fast_reids_function_uses_nothing_compiled(monkeypatch):
    asked = []
    real = rank.rank_queries
    monkeypatch.setattr(rank, "rank_queries", lambda *args, use_cython: asked.append(use_cython) or real(*args))
    ids = np.array([0, 1]), np.array([0, 1]), np.array([0, 0]), np.array([1, 1])
    cmc, ap, _ = rank.eval_market1501(np.array([[0.1, 0.9], [0.8, 0.2]]), *ids, max_rank=1)
    assert asked == [False] and cmc.tolist() == [1.0] and ap.tolist() == [1.0, 1.0]
