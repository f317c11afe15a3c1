"""Sparse k-reciprocal distances compared with the definitions on full matrices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastreid.retrieval import compiled_engine, jaccard, reranking
from fastreid.retrieval.compiled_engine import CompiledDistances, distance_rows
from fastreid.retrieval.distances import MatrixDistances
from fastreid.retrieval.neighbors import nearest_neighbors
from fastreid.retrieval.reranking import RerankedDistances, jaccard_graph, neighbors_needed
from fastreid.utils.errors import ArgumentError


def people(seed, n=80, dim=12, spread=0.7):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, n // 6), dim))
    return (centres[rng.integers(0, len(centres), n)] + spread * rng.standard_normal((n, dim))).astype(np.float32)


def dense_jaccard(distances, weights_from, k1, k2, beyond_itself):
    """Return the distances [N, N] in float64, computed with sets as in the paper."""
    n = len(distances)
    order = np.argsort(distances, axis=1, kind="stable")

    def reciprocal(i, k):
        return {j for j in order[i, :k] if i in order[j, :k]}

    num_neighbors, half = k1 + beyond_itself, int(np.around(k1 / 2)) + 1
    half = min(half, num_neighbors)
    described = np.zeros((n, n))
    for i in range(n):
        members = reciprocal(i, num_neighbors)
        expanded = set(members)
        for q in members:
            others = reciprocal(q, half)
            if 3 * len(others & members) > 2 * len(others):
                expanded |= others
        columns = sorted(expanded)
        weights = np.exp(-weights_from[i, columns])
        described[i, columns] = weights / weights.sum()
    if k2 > 1:
        described = np.stack([described[order[i, :k2]].mean(axis=0) for i in range(n)])
    shared = np.stack([np.minimum(row, described).sum(axis=1) for row in described])
    return 1 - shared / (2 - shared)


@pytest.fixture(params=["compiled", "scipy"])
def engine(request, monkeypatch):
    if request.param == "scipy":
        monkeypatch.setattr(compiled_engine, "is_available", lambda: False)
    return request.param


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize(("k1", "k2", "weight"), [(20, 6, 0.3), (7, 1, 0.0), (5, 3, 0.5), (4, 12, 1.0)])
def test_reranked_distances_are_those_of_the_definition(engine, metric, k1, k2, weight):
    features = people(1)
    query, gallery = features[:15], features[15:]
    found = RerankedDistances(
        CompiledDistances(query, gallery, metric=metric), query, gallery, k1=k1, k2=k2, weight=weight, metric=metric
    )
    everyone = distance_rows(features, features, metric=metric)
    normalized = everyone / everyone.max(axis=1, keepdims=True)
    expected = (1 - weight) * dense_jaccard(everyone, normalized, k1, k2, True) + weight * normalized
    np.testing.assert_allclose(found.rows(0, 15), expected[:15, 15:], atol=1e-6)
    np.testing.assert_allclose(found.row(7), expected[7, 15:], atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10**6), st.integers(2, 40), st.integers(1, 12), st.integers(1, 8), st.sampled_from(["spcl", "zhong"])
)
def test_graph_is_that_of_the_definition(seed, n, k1, k2, definition):
    features = people(seed, n)
    if seed % 3 == 0:
        features[n // 2 :] = features[: n - n // 2]  # duplicates
    everyone = distance_rows(features, features)
    greatest = everyone.max(axis=1, keepdims=True)
    weights_from = 2 * everyone if definition == "spcl" else everyone / np.where(greatest > 0, greatest, 1)
    expected = dense_jaccard(everyone, weights_from, k1, k2, definition == "zhong")
    graph = jaccard_graph(features, k1=k1, k2=k2, max_distance=1.0, definition=definition)
    dense = np.ones((n, n))
    coo = graph.tocoo()
    dense[coo.row, coo.col] = coo.data
    np.testing.assert_allclose(dense, np.maximum(expected, 0), atol=1e-6)


def test_the_matrix_of_the_caller_is_not_changed():
    features = people(4)
    query, gallery = features[:15], features[15:]
    matrix = distance_rows(query, gallery)
    kept = matrix.copy()
    found = RerankedDistances(MatrixDistances(matrix), query, gallery)
    expected = RerankedDistances(CompiledDistances(query, gallery), query, gallery)
    np.testing.assert_array_equal(found.rows(0, 15), expected.rows(0, 15))
    np.testing.assert_array_equal(matrix, kept)


def test_graph_has_the_small_distances_and_is_symmetric(engine):
    features = people(3, 150)
    whole = jaccard_graph(features, max_distance=1.0)
    near = jaccard_graph(features, max_distance=0.6)
    assert 0 < near.nnz < whole.nnz
    assert near.data.max() <= 0.6
    assert (near.data.size, near.has_canonical_format) == ((whole.data <= 0.6).sum(), True)
    np.testing.assert_allclose(near.toarray(), near.toarray().T, atol=0 if engine == "compiled" else 1e-6)


def test_the_greatest_distance_is_stored(engine):
    whole = jaccard_graph(people(3, 60), max_distance=1.0)
    greatest = np.sort(whole.data)[1800]
    near = jaccard_graph(people(3, 60), max_distance=float(greatest))
    assert near.nnz == (whole.data <= greatest).sum() and near.data.max() == greatest


def test_blocks_of_any_size_give_the_same_bits(engine, monkeypatch):
    features = people(7)
    query, gallery = features[:15], features[15:]

    def compute():
        plain = CompiledDistances(query, gallery, memory_budget=3 * 4 * 4 * len(gallery) / 2**20)
        reranked = RerankedDistances(plain, query, gallery)
        # Images of small groups, which share neighbours with different numbers of others.
        graph = jaccard_graph(people(9, 300, spread=0.1), k1=4, k2=1, max_distance=0.9)
        return graph, reranked.rows(0, 15), reranked

    graph, rows, reranked = compute()
    assert reranked.rows_at_once == 4
    blocks = [reranked.rows(start, min(start + 4, 15)) for start in range(0, 15, 4)]
    np.testing.assert_array_equal(np.concatenate(blocks), rows)
    monkeypatch.setattr(jaccard, "_BLOCK_ROWS", 7)
    again, rows_again, _ = compute()
    np.testing.assert_array_equal(again.toarray(), graph.toarray())
    np.testing.assert_array_equal(rows_again, rows)


def test_compiled_and_scipy_agree(monkeypatch):
    features = people(5, 300, 32)
    compiled = jaccard_graph(features, max_distance=0.9)
    monkeypatch.setattr(compiled_engine, "is_available", lambda: False)
    plain = jaccard_graph(features, max_distance=0.9)
    np.testing.assert_array_equal(compiled.indices, plain.indices)
    np.testing.assert_allclose(compiled.data, plain.data, atol=1e-6)


def test_any_number_of_threads_gives_the_same_bits():
    features = people(8, 500, 32)
    one, three = (jaccard_graph(features, num_threads=threads) for threads in (1, 3))
    for name in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(one, name), getattr(three, name))


def test_wrong_arguments_are_named():
    features = people(0, 20)
    with pytest.raises(ValueError, match="k1 must be at least 1, got 0"):
        jaccard_graph(features, k1=0)
    with pytest.raises(ValueError, match="'spcl'"):
        jaccard_graph(features, definition="spc")
    plain = CompiledDistances(features[:5], features[5:])
    for weight in (1.5, -0.5):
        with pytest.raises(ValueError, match=f"LAMBDA.*{weight}"):
            RerankedDistances(plain, features[:5], features[5:], weight=weight)
    features[3, 2] = np.nan
    with pytest.raises(ValueError, match="image 3 is not finite"):
        jaccard_graph(features)


def test_more_neighbours_than_images_are_all_images(caplog):
    features = people(2, 6)
    reranking._tell_of_few.cache_clear()
    for _ in range(2):
        assert reranking.jaccard_graph(features, k1=30, k2=10, max_distance=1).shape == (6, 6)
    distances = np.abs(features @ features.T)
    reranking.RerankedMatrix(distances, 2, k1=4, k2=9, weight=0.3)
    reranking.RerankedMatrix(distances, 2, k1=5, k2=6, weight=0.3)  # as many as there are
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and "k1 = 30" in said[0] and "there are 6 images" in said[0] and "ask for 9" in said[1]


def test_a_few_long_descriptors_leave_the_cosine_graph_as_it_is(engine):
    features = people(6)
    scaled = features * np.where(np.arange(80)[:, None] < 12, np.float32(2.0**80), np.float32(1))
    found, expected = (jaccard_graph(rows, k1=8, max_distance=1).toarray() for rows in (scaled, features))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_weights_of_long_descriptors_are_not_all_zero():
    features = people(6) * np.float32(1e5)
    graph = jaccard_graph(features, k1=8, metric="euclidean", max_distance=1)
    assert np.isfinite(graph.data).all() and (graph.diagonal() < 1).all()


@pytest.mark.parametrize("definition", ["spcl", "zhong"])
def test_neighbours_that_were_searched_before_give_the_same_graph(definition):
    features = np.random.default_rng(0).standard_normal((60, 8), dtype=np.float32)
    options = {"k1": 9, "k2": 12, "definition": definition}
    assert neighbors_needed(9, 12, definition) == 12
    found = nearest_neighbors(features, 20, with_farthest=True)
    given, searched = (jaccard_graph(features, nearest=nearest, **options) for nearest in (found, None))
    assert (given != searched).nnz == 0
    with pytest.raises(ArgumentError, match="60 images need 12 neighbours of each, got 11 of 60 images"):
        jaccard_graph(features, nearest=nearest_neighbors(features, 11), **options)
    if definition == "zhong":
        with pytest.raises(ArgumentError, match="with_farthest=True"):
            jaccard_graph(features, nearest=nearest_neighbors(features, 20), **options)
