"""Neighbour lists by the matrix unit of a CPU: any block, number of images and metric."""

import numpy as np
import pytest
import torch

from fastreid.retrieval import matrix_search, neighbors
from fastreid.retrieval.matrix_search import has_matrix_unit, offer_all
from fastreid.retrieval.neighbors import nearest_neighbors

rank_cy = pytest.importorskip("fastreid.retrieval.rank_cylib.rank_cy")


def rounded(seed, count, dim=32):
    """Rows of bfloat16 as the kernels store them, and their values."""
    rows = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)).bfloat16()
    return rows.view(torch.float32).numpy(), rows.double().numpy()


@pytest.mark.parametrize(("count", "length"), [(40, 3), (333, 40), (16, 16), (1300, 60)])
@pytest.mark.parametrize("block", [7, 100, 4096])
@pytest.mark.parametrize("each_pair_once", [True, False])
def test_lists_hold_the_least_distances(monkeypatch, count, length, block, each_pair_once):
    monkeypatch.setattr(matrix_search, "_QUERY_ROWS", block)
    monkeypatch.setattr(matrix_search, "_IMAGE_ROWS", 64 + block)
    images, values = rounded(1, count)
    queries, query_values = (images, values) if each_pair_once else rounded(0, 21)
    offsets = [(rows**2).sum(axis=1).astype(np.float32) for rows in (query_values, values)]
    lists = rank_cy.NeighborLists(len(queries), length, with_farthest=True, num_threads=2, num_far=4)
    options = {"slope": -2.0, "lowest": 20.0, "each_pair_once": each_pair_once}
    offer_all(lists, queries, images, *offsets, **options)
    (found, distances, farthest), (far, far_distances) = lists.read(), lists.read_far()
    exact = np.maximum(offsets[0][:, None] + offsets[1] - 2 * query_values @ values.T, 20)
    error = 2 * 2.0**-8 * np.abs(query_values @ values.T).max() + 1e-4
    for places, near, expected in (
        (found, distances, np.sort(exact, axis=1)[:, :length]),
        (far, far_distances, -np.sort(-exact, axis=1)[:, :4]),
    ):
        assert all(len(set(row)) == len(row) for row in places.tolist())
        assert np.abs(np.take_along_axis(exact, places, 1) - near).max() <= error
        assert np.abs(expected - near).max() <= error
    assert np.array_equal(farthest, far_distances[:, 0])


@pytest.mark.parametrize("with_farthest", [True, False])
def test_the_matrix_unit_finds_what_the_kernels_find(monkeypatch, with_farthest):
    if not has_matrix_unit():
        pytest.skip("this CPU has no matrix unit")
    calls = []
    monkeypatch.setattr(neighbors, "offer_all", lambda *args, **keys: calls.append(args) or offer_all(*args, **keys))
    rows = np.random.default_rng(0).standard_normal((700, 96), dtype=np.float32)
    found = nearest_neighbors(rows, 6, with_farthest=with_farthest)
    assert len(calls) == 2  # of a sample, and of all images
    monkeypatch.setattr(neighbors, "has_matrix_unit", lambda: False)
    expected = nearest_neighbors(rows, 6, with_farthest=with_farthest)
    assert len(calls) == 2
    assert found.indices.tobytes() == expected.indices.tobytes()
    assert found.distances.tobytes() == expected.distances.tobytes()
    if with_farthest:
        assert found.farthest.tobytes() == expected.farthest.tobytes()
