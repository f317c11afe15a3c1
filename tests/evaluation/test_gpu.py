"""The torch engine on a GPU gives the ranks, lists and curves of the CPU."""

import numpy as np
import pytest
import torch

from fastreid.evaluation.roc import roc_curve
from fastreid.evaluation.scoring import score_features
from fastreid.evaluation.scoring_options import Expansion, Reranking, Scoring
from fastreid.retrieval.compiled_engine import CompiledDistances
from fastreid.retrieval.matches import match_labels
from fastreid.retrieval.neighbors import nearest_neighbors
from fastreid.retrieval.ranking import count_matrix
from fastreid.retrieval.reranking import jaccard_graph
from tests.evaluation.test_roc import protocol

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("budget", [64, 0.5])
def test_figures_equal_those_of_the_cpu(metric, budget):
    query, gallery, *ids = protocol(1, q=200, g=3000, people=60, dim=64)
    expected = score_features(query, gallery, *ids, Scoring(metric=metric, roc=True))
    options = {"metric": metric, "engine": "torch", "device": "cuda", "memory_budget": budget, "roc": True}
    for move in (lambda x: x, lambda x: torch.from_numpy(x).cuda()):
        found = score_features(move(query), move(gallery), *ids, Scoring(**options))
        assert found.metrics == pytest.approx(expected.metrics, abs=1e-2)
        np.testing.assert_allclose(found.distances_of(3), expected.distances_of(3), rtol=1e-4, atol=1e-5)


def test_a_matrix_is_counted_as_on_the_cpu():
    query, gallery, *ids = protocol(2, q=100, g=2000, people=40)
    matches = match_labels(*ids)
    matrix = np.round(CompiledDistances(query, gallery).rows(0, 100), 2)  # many equal distances
    expected = count_matrix(matrix, matches)
    for here, there in zip(expected, count_matrix(torch.from_numpy(matrix).cuda(), matches), strict=True):
        np.testing.assert_array_equal(here, there)
    matrix[7, 11] = np.nan
    with pytest.raises(ValueError, match="query row 7 to gallery image 11 is nan"):
        count_matrix(torch.from_numpy(matrix).cuda(), matches)


def test_tensorfloat_is_not_used_even_if_it_is_allowed():
    query, gallery, *ids = protocol(3, q=64, g=512, dim=256)
    expected = CompiledDistances(query, gallery).rows(0, 64)
    torch.set_float32_matmul_precision("medium")
    try:
        found = Scoring(engine="torch", device="cuda").distances(query, gallery).rows(0, 64)
    finally:
        torch.set_float32_matmul_precision("highest")
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("offset", [300, 10_000])
@pytest.mark.parametrize("stored", [np.float32, np.float64, "there"])
def test_a_common_offset_changes_nothing_on_a_gpu(offset, stored):
    query, gallery, *ids = protocol(5, q=100, g=1000, people=40, dim=64)
    query, gallery = (np.round(side * 2**9) / 2**9 for side in (query, gallery))  # exact in float32 beside the offset
    options = {"metric": "euclidean", "roc": True, "reranking": Reranking(k1=10, k2=3)}
    expected = score_features(query, gallery, *ids, Scoring(**options))
    moved = [side.astype(np.float64) + offset for side in (query, gallery)]
    if stored == "there":
        moved = [torch.from_numpy(side).float().cuda() for side in moved]
    else:
        moved = [side.astype(stored) for side in moved]
    for budget in (64, 0.5):
        there = Scoring(**options, engine="torch", device="cuda", memory_budget=budget)
        assert score_features(*moved, *ids, there).metrics == pytest.approx(expected.metrics, abs=1e-2)
    nearest = nearest_neighbors(moved[1], 9, metric="euclidean", device="cuda", search="torch").indices
    true = nearest_neighbors(gallery, 9, metric="euclidean").indices
    assert (np.sort(nearest, axis=1) == np.sort(true, axis=1)).mean() > 0.999


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-18, 1e18, 1e30])
def test_cosine_distances_do_not_depend_on_lengths_on_a_gpu(scale):
    query, gallery, *_ = protocol(6, q=50, g=500, people=40, dim=64)
    scaled = [(np.round(8 * side).astype(np.float64) * scale).astype(np.float32) for side in (query, gallery)]
    expected = Scoring(engine="torch").distances(*scaled).rows(0, 50)
    found = Scoring(engine="torch", device="cuda").distances(*scaled).rows(0, 50)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_neighbours_expansion_and_reranking():
    query, gallery, *ids = protocol(4, q=100, g=1000, people=40, dim=64)
    expected, found = (nearest_neighbors(gallery, 12, device=device) for device in ("cpu", "cuda"))
    assert (expected.indices == found.indices).mean() > 0.999
    graphs = [jaccard_graph(gallery, k1=10, device=device).toarray() for device in ("cpu", "cuda")]
    assert np.isclose(*graphs, atol=1e-4).mean() > 0.999
    options = {"reranking": Reranking(k1=10, k2=3), "expansion": Expansion(k=3)}
    cpu = score_features(query, gallery, *ids, Scoring(**options))
    cuda = score_features(query, gallery, *ids, Scoring(**options, engine="torch", device="cuda"))
    assert cuda.metrics["mAP"] == pytest.approx(cpu.metrics["mAP"], abs=0.05)
    assert roc_curve(cuda.distances, cuda.matches).auc == pytest.approx(
        roc_curve(cpu.distances, cpu.matches).auc, abs=1e-3
    )
