"""Least distances by the matrix unit of a CPU: any block, number of images and metric."""

import numpy as np
import pytest
import torch

from fastreid.retrieval import matrix_search, neighbors
from fastreid.retrieval.matrix_search import has_matrix_unit, least_distances
from fastreid.retrieval.neighbors import nearest_neighbors


def rounded(seed, count, dim=32):
    """Rows of bfloat16 as the kernels store them, and their values."""
    rows = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)).bfloat16()
    return rows.view(torch.float32).numpy(), rows.double().numpy()


@pytest.mark.parametrize(("count", "length"), [(40, 3), (333, 4), (333, 40), (16, 16), (1000, 60)])
@pytest.mark.parametrize("block", [1, 5000, 1 << 24])
def test_distances_are_the_least(monkeypatch, count, length, block):
    monkeypatch.setattr(matrix_search, "_BLOCK_BYTES", block)
    monkeypatch.setattr(matrix_search, "_PRODUCT_BYTES", 3 * block)
    (queries, query_values), (images, values) = rounded(0, 21), rounded(1, count)
    offsets = [(rows**2).sum(axis=1).astype(np.float32) for rows in (query_values, values)]
    found, distances = least_distances(queries, images, *offsets, slope=-2.0, lowest=20.0, length=length)
    exact = np.maximum(offsets[0][:, None] + offsets[1] - 2 * query_values @ values.T, 20)
    assert found.dtype == np.int32 and distances.dtype == np.float32 and found.shape == distances.shape == (21, length)
    assert all(len(set(row)) == length for row in found.tolist()) and (np.diff(distances, axis=1) >= 0).all()
    error = 2 * 2.0**-8 * np.abs(query_values @ values.T).max() + 1e-4
    assert np.abs(np.take_along_axis(exact, found, 1) - distances).max() <= error
    assert np.abs(np.sort(exact, axis=1)[:, :length] - distances).max() <= error


def test_the_matrix_unit_finds_what_the_kernels_find(monkeypatch):
    if not has_matrix_unit():
        pytest.skip("this CPU has no matrix unit")
    calls = []
    monkeypatch.setattr(
        neighbors, "least_distances", lambda *args, **keys: calls.append(args) or least_distances(*args, **keys)
    )
    rows = np.random.default_rng(0).standard_normal((700, 96), dtype=np.float32)
    found = nearest_neighbors(rows, 6)
    assert len(calls) == 2  # of a sample, and of all images
    monkeypatch.setattr(neighbors, "has_matrix_unit", lambda: False)
    expected = nearest_neighbors(rows, 6)
    assert len(calls) == 2
    assert found.indices.tobytes() == expected.indices.tobytes()
    assert found.distances.tobytes() == expected.distances.tobytes()
