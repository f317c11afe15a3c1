"""Distances by torch do not depend on how the rows are divided, and errors name the row of the caller."""

import numpy as np
import pytest
import torch

from fastreid.retrieval import ranking_torch, torch_engine
from fastreid.retrieval.torch_engine import TorchDistances, build_dist
from tests.retrieval.test_metric import rows_about, true_distances

METRICS = ["cosine", "euclidean"]


@pytest.fixture
def small_segments(monkeypatch):
    monkeypatch.setattr(torch_engine, "SEGMENT_ROWS", 16)
    monkeypatch.setattr(torch_engine, "CENTRED_ROWS", 7)


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize(
    ("metric", "offset", "scale"),
    [("cosine", 0, 1), ("cosine", 1000, 1), ("cosine", 0, 2.0**-122), ("euclidean", 0, 1), ("euclidean", 1000, 1)],
    ids=["usual", "centred", "some need a boost", "squared", "squared and centred"],
)
@pytest.mark.parametrize("stored", [np.float32, np.float64])
def test_segments_give_the_same_distances(metric, offset, scale, stored):
    lengths = 2.0 ** np.random.default_rng(0).integers(-3, 3, (50, 1)) * scale
    rows = (rows_about(offset, n=50, dim=24) * lengths).astype(stored)
    found = TorchDistances(rows[:20], rows, metric=metric).rows(0, 20)
    expected = true_distances(rows[:20], rows, metric)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * expected.mean())


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("side", "row"), [("query", 19), ("gallery", 33)])
def test_the_error_names_a_row_of_a_later_segment(metric, side, row):
    query, gallery = rows_about(0, n=20), rows_about(0, n=50, seed=1)
    (query if side == "query" else gallery)[row, 3] = np.inf
    with pytest.raises(ValueError, match=f"descriptor of {side} image {row} is not finite"):
        TorchDistances(query, gallery, metric=metric).rows(0, 20)


def test_rows_of_very_different_lengths_have_the_right_cosines():
    rows = rows_about(0, n=40, dim=16)
    rows[::4] *= np.float32(2.0**100)
    rows[1::4] *= np.float32(2.0**-100)
    expected = true_distances(rows, rows, "cosine")
    np.testing.assert_allclose(TorchDistances(rows, rows).rows(0, 40), expected, atol=1e-6)
    for one_kind in (rows[::4], rows[1::4], rows[2::4]):
        found = TorchDistances(rows, one_kind).rows(0, 40)
        np.testing.assert_allclose(found, true_distances(rows, one_kind, "cosine"), atol=1e-6)


def test_bounds_hold_all_distances_even_if_one_side_is_far_away():
    near, far = rows_about(0, n=30), 100 * rows_about(0, n=30, seed=1)
    for query, gallery in ((near, far), (far, near)):
        distances = TorchDistances(query, gallery, metric="euclidean")
        low, high = distances.bounds
        rows = distances.rows(0, 30)
        assert low == 0 and rows.max() <= high <= 8 * rows.max()
    assert TorchDistances(near, far).bounds == (0.0, 2.0)
    assert TorchDistances(near[:0], near[:1], metric="euclidean").bounds == (0.0, np.float64(1e-30))


def test_equal_rows_have_no_negative_distance():
    rows = rows_about(0.1, n=60)
    for moved in (rows, rows + np.float32(1000)):
        for metric in METRICS if moved is not rows else ["euclidean"]:
            assert (build_dist(torch.from_numpy(moved), torch.from_numpy(moved), metric) >= 0).all()


def test_counting_without_kernels_leaves_a_third_of_the_budget_to_distances(monkeypatch):
    rows, budget = rows_about(0, n=30, dim=8), 12 * 4 * 30 / 2**20  # twelve rows of distances
    for is_available, rows_at_once in ((True, 12), (False, 4)):
        monkeypatch.setattr(torch_engine, "is_available", lambda answer=is_available: answer)
        assert TorchDistances(rows, rows, memory_budget=budget).rows_at_once == rows_at_once


def test_ranking_on_a_gpu_uses_a_share_of_its_free_memory(monkeypatch):
    cuda, cpu, free = torch.device("cuda", 0), torch.device("cpu"), 24 * 2**30
    for module in (torch_engine, ranking_torch):
        monkeypatch.setattr(module, "free_memory", lambda device: free)
    assert torch_engine.budget_on(cuda, 256) == 6 * 1024 and torch_engine.budget_on(cpu, 256) == 256
    assert torch_engine.budget_on(cuda, 10_000) == 10_000
    assert ranking_torch._chunk(cuda) == 6 * 2**30 // 64 > ranking_torch._chunk(cpu)
    free = 2**20
    assert ranking_torch._chunk(cuda) == ranking_torch._chunk(cpu) and torch_engine.budget_on(cuda, 256) == 256


def test_a_block_is_written_where_the_caller_wants_it():
    rows = rows_about(0, n=30)
    distances, out = TorchDistances(rows[:10], rows), np.empty((8, 30), np.float32)
    found = distances.rows(2, 7, out)
    assert np.shares_memory(found, out) and found.shape == (5, 30)
    np.testing.assert_allclose(found, TorchDistances(rows[:10], rows).rows(0, 10)[2:7], atol=1e-6)
