"""Layers, losses, distances and seeds of fast-reid that projects build their own models from, with its arguments."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastreid.evaluation import jaccard_graph
from fastreid.evaluation.evaluator import ReidEvaluator
from fastreid.evaluation.reid_evaluation import ReidEvaluator as ReidEvaluatorOfFastReid
from fastreid.evaluation.rerank import re_ranking
from fastreid.layers import (
    IBN,
    Non_local,
    NonLocal,
    SELayer,
    batch_norm,
    get_norm,
    non_local,
    se_layer,
    weight_init,
    weights_init_classifier,
    weights_init_kaiming,
)
from fastreid.modeling.losses import log_accuracy
from fastreid.modeling.losses.utils import concat_all_gather, cosine_dist, euclidean_dist, normalize
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY, Distiller
from fastreid.retrieval.compiled_engine import CompiledDistances
from fastreid.retrieval.reranking import RerankedDistances
from fastreid.solver import build as solver
from fastreid.utils import comm
from fastreid.utils.collect_env import collect_env_info
from fastreid.utils.compute_dist import (
    build_dist,
    compute_cosine_distance,
    compute_euclidean_distance,
    compute_jaccard_distance,
)
from fastreid.utils.env import seed_all_rng
from fastreid.utils.errors import ArgumentError
from fastreid.utils.events import EventStorage


def seeded(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_blocks_of_a_backbone():
    """As the blocks of a backbone that was copied from fast-reid make them."""
    planes, bn_norm = 32, "BN"
    maps = seeded(2, planes, 4, 4)
    assert torch.equal(Non_local(planes, bn_norm)(maps), maps)  # it starts as the identity
    assert Non_local(planes, bn_norm).state_dict().keys() == NonLocal(planes, bn_norm).state_dict().keys()
    gate = SELayer(planes, reduction=8)
    pooled = maps.mean(dim=(2, 3))
    weights = torch.sigmoid(F.linear(F.relu(F.linear(pooled, gate.fc[0].weight)), gate.fc[2].weight))
    torch.testing.assert_close(gate(maps), maps * weights[:, :, None, None])
    assert SELayer(planes).fc[0].out_features == planes // 16
    normed = IBN(planes, bn_norm)(maps)
    torch.testing.assert_close(normed[:, 16:], F.batch_norm(maps[:, 16:], None, None, training=True))
    torch.testing.assert_close(normed[:, :16], F.instance_norm(maps[:, :16]))
    assert isinstance(get_norm(bn_norm, planes), nn.BatchNorm2d)
    assert (batch_norm.IBN, batch_norm.get_norm) == (IBN, get_norm)
    assert (se_layer.SELayer, non_local.Non_local) == (SELayer, Non_local)
    assert weight_init.weights_init_kaiming is weights_init_kaiming
    assert weight_init.weights_init_classifier is weights_init_classifier


def test_distances_of_a_batch_have_gradients():
    x, y = seeded(5, 8).requires_grad_(), seeded(7, 8) + 1
    torch.testing.assert_close(euclidean_dist(x, y), torch.cdist(x, y))
    assert euclidean_dist(x, x).diagonal().max() < 1e-2
    cosines = torch.stack([F.cosine_similarity(row[None], y) for row in x])
    torch.testing.assert_close(cosine_dist(x, y), 2 - 2 * cosines)
    euclidean_dist(x, x).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    torch.testing.assert_close(normalize(x, axis=0).square().sum(dim=0), torch.ones(8))
    torch.testing.assert_close(normalize(x).square().sum(dim=1), torch.ones(5))
    assert not normalize(torch.zeros(1, 8)).any()


def test_rows_of_all_processes_have_no_gradient(monkeypatch):
    rows = torch.ones(2, 3, requires_grad=True)
    monkeypatch.setattr(comm, "rows_of_all", lambda own: torch.cat([own, own * 2]))
    gathered = concat_all_gather(rows)
    assert gathered.tolist() == [[1.0] * 3] * 2 + [[2.0] * 3] * 2 and not gathered.requires_grad


def test_accuracy_is_logged():
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 1.0, 2.0], [1.0, 3.0, 2.0], [1.0, 2.0, 3.0]])
    with EventStorage(0) as storage:
        log_accuracy(logits, torch.tensor([0, 1, 2, 2]))
        assert storage.latest()["cls_accuracy"][0] == 0.5
        log_accuracy(logits, torch.tensor([0, 1, 2, 0]), topk=(2,))
        assert storage.latest()["cls_accuracy"][0] == 0.75
    with pytest.raises(RuntimeError, match="there is no EventStorage"):
        log_accuracy(logits, torch.tensor([0, 1, 2, 2]))


def test_distance_matrices():
    query, gallery = seeded(4, 8), 3 * seeded(6, 8)
    squared = compute_euclidean_distance(query, gallery)
    np.testing.assert_allclose(squared, torch.cdist(query, gallery).square().numpy(), rtol=1e-4, atol=1e-4)
    cosine = compute_cosine_distance(query, gallery)
    np.testing.assert_allclose(cosine, cosine_dist(query, gallery).numpy() / 2, atol=1e-5)
    features = seeded(40, 8)
    jaccard = compute_jaccard_distance(features, k1=8, k2=3)
    np.testing.assert_array_equal(jaccard, compute_jaccard_distance(features, 8, 3, 2))
    graph = jaccard_graph(features, k1=8, k2=3, max_distance=1).tocoo()
    np.testing.assert_array_equal(jaccard[graph.row, graph.col], graph.data)
    np.testing.assert_array_equal(jaccard[:10, 10:], build_dist(features[:10], features[10:], "jaccard", k1=8, k2=3))
    assert jaccard.shape == (40, 40) and (jaccard == 1).sum() >= 1600 - graph.nnz
    assert all(matrix.dtype == np.float32 for matrix in (squared, cosine, jaccard))


def test_seeds():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    seed_all_rng(7)
    first = draw()
    seed_all_rng()
    other = draw()
    seed_all_rng(7)
    assert draw() == first and not set(first) & set(other)


def test_modules_of_fast_reid(cfg):
    assert ReidEvaluatorOfFastReid is ReidEvaluator and META_ARCH_REGISTRY.get("Distiller") is Distiller
    assert "python" in collect_env_info() and "torch" in collect_env_info()
    model = nn.Linear(2, 2)
    optimizer, groups = solver.build_optimizer(cfg, model)
    assert optimizer.param_groups and groups is not None
    assert solver.build_lr_scheduler(cfg, optimizer, iters_per_epoch=4)["lr_sched"]


def test_reranking_of_distance_matrices():
    features = torch.cat([seeded(9, 6) + offset for offset in (0, 0.3, 2)]).numpy()
    query, gallery = features[:7], features[7:]
    dist = torch.cdist(torch.from_numpy(features), torch.from_numpy(features)).numpy()
    given = dist[:7, 7:], dist[:7, :7], dist[7:, 7:]
    kept = [matrix.copy() for matrix in given]
    for k1, k2, lambda_value in ((20, 6, 0.3), (6, 1, 0.0), (5, 3, 1.0)):
        plain = CompiledDistances(query, gallery, metric="euclidean")
        options = {"k1": k1, "k2": k2, "weight": lambda_value, "metric": "euclidean"}
        expected = RerankedDistances(plain, query, gallery, **options).rows(0, 7)
        found = re_ranking(*given, k1, k2, lambda_value)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(re_ranking(*given), re_ranking(*given, k1=20, k2=6, lambda_value=0.3))
    assert found.shape == (7, 20) and found.dtype == np.float32
    for matrix, before in zip(given, kept, strict=True):
        np.testing.assert_array_equal(matrix, before)


def test_reranking_refuses_matrices_that_do_not_fit():
    across, queries, gallery = np.ones((2, 3)), np.ones((2, 2)), np.ones((3, 3))
    with pytest.raises(ArgumentError, match=r"got \[2, 3\], \[3, 3\] and \[2, 2\]"):
        re_ranking(across, gallery, queries)
    with pytest.raises(ValueError, match="0 … 1, got 2"):
        re_ranking(across, queries, gallery, lambda_value=2)
    with pytest.raises(ValueError, match="k1"):
        re_ranking(across, queries, gallery, k1=0)
    gallery[1, 1] = np.nan
    with pytest.raises(ValueError, match="nan|NaN|finite"):
        re_ranking(across, queries, gallery)
