"""fast-reid's interface of the rank evaluation."""

import numpy as np
import torch

from fastreid.evaluation import evaluate_rank, rank
from fastreid.evaluation.roc import evaluate_roc
from fastreid.evaluation.scoring import score_distances


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


def test_bfloat16_distances_are_those_of_float32():
    rough = torch.rand(3, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    ids = np.arange(3), np.array([0, 1, 2, 0, 1, 2]), np.zeros(3, int), np.ones(6, int)
    for call in (
        lambda distances: evaluate_rank(distances, *ids, use_metric_cuhk03=True)[0],
        lambda distances: evaluate_roc(distances, *ids)[0],
        lambda distances: list(score_distances(distances, *ids).metrics.values()),
    ):
        np.testing.assert_array_equal(call(rough), call(rough.float().numpy()))
