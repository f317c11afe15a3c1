"""Distances are accurate wherever rows lie and however long they are, compared with differences in float64."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastreid.evaluation.scoring import score_features
from fastreid.evaluation.scoring_options import Expansion, Reranking, Scoring
from fastreid.retrieval import compiled_engine
from fastreid.retrieval.compiled_engine import CompiledDistances, distance_rows
from fastreid.retrieval.metric import METRICS, squared_lengths
from fastreid.retrieval.neighbors import nearest_neighbors
from fastreid.retrieval.query_expansion import aqe, expand
from fastreid.retrieval.ranking import rank_queries
from fastreid.retrieval.reranking import RerankedDistances, jaccard_distances, jaccard_graph
from fastreid.retrieval.torch_engine import TorchDistances
from tests.evaluation.test_roc import protocol

needs_kernels = pytest.mark.skipif(not compiled_engine.is_available(), reason="extension not compiled")
ENGINES = {
    "compiled": pytest.param(CompiledDistances, marks=needs_kernels, id="compiled"),
    "torch": pytest.param(TorchDistances, id="torch"),
}
SEARCHES = [pytest.param("compiled", marks=needs_kernels), "torch", "faiss"]
SCALES = [1e-42, 1e-38, 1e-30, 1e-18, 1e-15, 1e-6, 1e6, 1e15, 1e30, 1e35]


def true_distances(query, gallery, metric):
    """Return distances computed by differences in float64."""
    query, gallery = (np.asarray(rows, dtype=np.float64) for rows in (query, gallery))
    if metric == "euclidean":
        return ((query[:, None] - gallery[None]) ** 2).sum(-1)
    units = [rows / np.abs(rows).max(axis=1, keepdims=True) for rows in (query, gallery)]
    units = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in units]
    return ((units[0][:, None] - units[1][None]) ** 2).sum(-1) / 2


def rows_about(offset, *, n=200, dim=64, seed=0, people=None):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, dim))
    if people is not None:
        rows = 0.7 * rows + rng.standard_normal((people.max() + 1, dim))[people]
    return (rows + offset).astype(np.float32)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("offset", [0, 1, 30, 300, 1000, 10_000])
def test_a_common_offset_changes_no_neighbour(search, offset):
    if search == "faiss":
        pytest.importorskip("faiss")
    rows = rows_about(offset)
    order = np.argsort(true_distances(rows, rows, "euclidean"), axis=1)[:, :5]
    found = nearest_neighbors(rows, 5, metric="euclidean", search=search)
    assert [set(row) for row in found.indices.tolist()] == [set(row) for row in order.tolist()]


@pytest.mark.parametrize("distances", ENGINES.values())
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("offset", [0, 3, 1000, -10_000, "of its own in each dimension"])
def test_distances_are_accurate_about_an_offset(distances, metric, offset):
    """Distances of the stored rows; rounding rows to float32 happens before."""
    if isinstance(offset, str):
        offset = np.random.default_rng(1).uniform(-1e4, 1e4, 64)
    query, gallery = rows_about(offset, n=30, seed=1), rows_about(offset, n=300, seed=2)
    expected = true_distances(query, gallery, metric)
    found = distances(query, gallery, metric=metric).rows(0, 30)
    # Unit vectors have the digits of float32; their differences have fewer the nearer they are.
    tolerance = 2e-6 if metric == "euclidean" else max(1e-5, 2e-6 / np.sqrt(expected.mean()))
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * expected.mean())


@needs_kernels
@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(2, 120), st.integers(1, 80), st.floats(0, 1e4), st.floats(0, 1e4),
    st.sampled_from([1e-8, 1e-3, 1.0, 1e3, 1e8]), st.sampled_from(["compiled", "torch"]),
    st.sampled_from([np.float32, np.float64]),
)  # fmt: skip
def test_neighbours_are_right_wherever_rows_lie(seed, n, dim, common, own, scale, search, dtype):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, dim)) + common + own * rng.uniform(-1, 1, dim)
    rows = (rows * scale).astype(dtype)
    k = min(n, 6)
    found = nearest_neighbors(rows, k, metric="euclidean", search=search)
    distances = true_distances(rows, rows, "euclidean")
    assert all(len(set(row)) == k for row in found.indices.tolist())
    # All images that are nearer than the last by more than the error of float32 are in the list.
    last = np.take_along_axis(distances, found.indices.astype(int), 1).max(axis=1)
    assert (last <= np.sort(distances, axis=1)[:, k - 1] + 3e-6 * distances.max()).all()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(1, 80), st.lists(st.integers(-30, 30), min_size=8, max_size=8),
    st.sampled_from([float("nan"), 0.0, 1000.0]), st.sampled_from(["compiled", "torch"]),
)  # fmt: skip
@example(0, 64, [-30] * 8, 0.0, "compiled").via("every row short")
@example(0, 64, [30] * 8, 0.0, "torch").via("every row long")
def test_cosine_distances_do_not_depend_on_the_lengths_of_rows(seed, dim, exponents, offset, engine):
    if engine == "compiled" and not compiled_engine.is_available():
        pytest.skip("extension not compiled")
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((40, dim)) + np.nan_to_num(offset)
    scales = 10.0 ** rng.permutation(np.tile(exponents, 5))[:, None]
    scaled = (rows * scales).astype(np.float32)
    expected = true_distances(scaled[:10], scaled[10:], "cosine")
    make = CompiledDistances if engine == "compiled" else TorchDistances
    np.testing.assert_allclose(make(scaled[:10], scaled[10:]).rows(0, 10), expected, atol=1e-6)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("engine", ["compiled", "torch"])
@pytest.mark.parametrize("stored", [np.float32, np.float64])
def test_figures_of_scaled_rows_are_those_of_the_rows(scale, engine, stored):
    query, gallery, *ids = protocol(3, q=40, g=300, people=20, dim=24)
    if scale < 1e-38:  # float32 has too few digits here for the same figures or neighbours
        query, gallery = np.round(4 * query), np.round(4 * gallery)
        scale = 2.0**-146
    options = {"engine": engine, "roc": True, "search": engine}
    scaled = [(side.astype(np.float64) * scale).astype(stored) for side in (query, gallery)]
    assert all(np.isfinite(side).all() for side in scaled)
    extras = [{}, {"reranking": Reranking(k1=8, k2=3)}, {"expansion": Expansion(k=3)}]
    for extra in extras[: 2 if scale < 1e-38 else 3]:  # means of such rows have as few digits
        wanted = score_features(query, gallery, *ids, Scoring(**options | extra)).metrics
        found = score_features(*scaled, *ids, Scoring(**options | extra)).metrics
        assert found == pytest.approx(wanted, abs=2e-3), extra
        assert wanted["TPR@FPR=1e-4"] < 99.9  # the figures are not trivial


@pytest.mark.parametrize("distances", ENGINES.values())
def test_a_row_of_the_greatest_length_is_allowed(distances):
    """|x'| is at most 2^120 for cosine distances, and sqrt(max / 8), here rounded down, for euclidean ones."""
    for metric, longest in (("cosine", 2.0**120), ("euclidean", METRICS["euclidean"].longest)):
        rows = np.zeros((5, 3), np.float32)
        rows[1, 0] = np.nextafter(np.float32(longest), np.float32(0)) if metric == "euclidean" else longest
        found = distances(rows[:2], rows, metric=metric).rows(0, 2)
        assert np.isfinite(found).all() and found[1, 1] == 0
        rows[1, 0] = np.nextafter(np.float32(longest), np.float32(np.inf))
        with pytest.raises(ValueError, match="image 1 is too long for float32"):
            distances(rows[:2], rows, metric=metric).rows(0, 2)


@needs_kernels
def test_the_scale_of_a_row_leaves_the_bits_of_its_cosines():
    query, gallery, *_ = protocol(4, q=10, g=200, dim=40)
    powers = np.float32(2.0) ** np.random.default_rng(0).integers(-90, 90, (200, 1)).astype(np.float32)
    expected = distance_rows(query, gallery)
    assert distance_rows(query, gallery * powers).tobytes() == expected.tobytes()
    assert distance_rows(query * np.float32(2.0**-100), gallery).tobytes() == expected.tobytes()
    assert distance_rows(query.astype(np.float64) * 2.0**-700, gallery).tobytes() == expected.tobytes()
    assert distance_rows(query.astype(np.float64) * 2.0**700, gallery).tobytes() == expected.tobytes()


@pytest.mark.parametrize("distances", ENGINES.values())
def test_rows_of_zeros_and_of_denormal_numbers(distances):
    query, gallery, *_ = protocol(4, q=10, g=50, dim=8)
    gallery[7], gallery[8], query[2] = 0, 0, 0
    gallery[8, 3] = np.float32(1e-45)
    found = distances(query, gallery).rows(0, 10)
    assert (found[:, 7] == 1).all() and (found[2] == 1).all()
    np.testing.assert_allclose(found[3, 8], 1 - query[3, 3] / np.linalg.norm(query[3]), atol=1e-6)
    everything_zero = distances(np.zeros((2, 4)), np.zeros((3, 4))).rows(0, 2)
    assert (everything_zero == 1).all()


@pytest.mark.parametrize("engine", ["compiled", "torch"])
@pytest.mark.parametrize("offset", [300, 1000, 10_000])
def test_every_figure_is_that_of_the_rows_without_their_offset(engine, offset):
    rng = np.random.default_rng(0)
    people, cameras = rng.integers(0, 40, 600), rng.integers(0, 4, 600)
    # Multiples of 2^-9, which float32 can represent beside the offset: rows are exact.
    rows = np.round(rows_about(0, n=600, people=people) * 2**9) / 2**9
    moved = (rows + offset).astype(np.float32)
    assert (moved.astype(np.float64) - offset == rows).all()
    ids = people[:100], people[100:], cameras[:100], cameras[100:]
    options = {"metric": "euclidean", "engine": engine, "search": engine, "roc": True, "breakdown": ("camera",)}
    for extra in ({}, {"reranking": Reranking(k1=10, k2=3)}, {"single_shot": True, "breakdown": ()}):
        scoring = Scoring(**options | extra)
        expected = score_features(rows[:100], rows[100:], *ids, scoring)
        found = score_features(moved[:100], moved[100:], *ids, scoring)
        assert found.metrics == pytest.approx(expected.metrics, abs=1e-3), extra
        assert found.chance == expected.chance
        np.testing.assert_allclose(found.ranking.ap, expected.ranking.ap, atol=1e-4)
        np.testing.assert_allclose(found.distances_of(7), expected.distances_of(7), rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(found.roc.right_histogram.sum(), expected.roc.right_histogram.sum())
        for a, b in zip(found.breakdown.get("camera", []), expected.breakdown.get("camera", []), strict=True):
            assert a == pytest.approx(b, abs=1e-3)


@pytest.mark.parametrize("engine", ["compiled", "torch"])
def test_map_of_rows_about_an_offset(engine):
    """The mAP of random people whose rows lie about 300 is that of float64."""
    rng = np.random.default_rng(0)
    people, cameras = rng.integers(0, 50, 1000), rng.integers(0, 4, 1000)
    rows = (0.5 * (0.15 * rng.standard_normal((50, 64))[people] + rng.standard_normal((1000, 64))) + 300).astype("f4")
    ids = people[:200], people[200:], cameras[:200], cameras[200:]
    for metric in ("euclidean", "cosine"):
        expected = rank_queries(true_distances(rows[:200], rows[200:], metric), *ids)
        found = score_features(rows[:200], rows[200:], *ids, Scoring(metric=metric, engine=engine))
        assert found.metrics["mAP"] == pytest.approx(100 * expected.mean_ap, abs=2e-2)
        assert found.metrics["Rank-1"] == 100 * expected.cmc(1)[0]


@pytest.mark.parametrize("search", SEARCHES)
def test_expansion_takes_the_right_neighbours_of_similar_rows(search):
    """Cosines differ by 1e-6 at an offset of 1,000, and by more digits than 1 - cos has."""
    if search == "faiss":
        pytest.importorskip("faiss")
    rows = rows_about(1000, n=150, dim=32)
    distances = true_distances(rows, rows, "cosine")
    nearest = np.argsort(distances, axis=1)[:, :4]
    got = nearest_neighbors(rows, 4, search=search)
    assert (np.sort(got.indices, axis=1) == np.sort(nearest, axis=1)).mean() > 0.99
    np.testing.assert_allclose(expand(rows, 4, 3.0, search=search), rows[nearest].mean(axis=1), atol=0.5)
    query, gallery = aqe(rows[:50], rows[50:], qe_k=4, search=search)
    np.testing.assert_array_equal(torch.cat([query, gallery]).numpy(), expand(rows, 4, 3.0, search=search))


@pytest.mark.parametrize("definition", ["spcl", "zhong"])
@pytest.mark.parametrize("search", ["compiled", "torch"])
def test_jaccard_distances_do_not_depend_on_an_offset(definition, search):
    rows = np.round(rows_about(0, n=120, dim=16, people=np.arange(120) % 12) * 2**9) / 2**9
    moved = (rows + 1000).astype(np.float32)
    options = {"k1": 8, "k2": 3, "definition": definition, "metric": "euclidean", "search": search}
    expected = jaccard_graph(rows, **options).toarray()
    np.testing.assert_allclose(jaccard_graph(moved, **options).toarray(), expected, atol=2e-4)
    np.testing.assert_allclose(
        jaccard_distances(moved[:20], moved[20:], **options),
        jaccard_distances(rows[:20], rows[20:], **options),
        atol=2e-4,
    )


def test_lengths_have_one_definition(monkeypatch):
    rows, factors = rows_about(3, n=1500, dim=19), np.random.default_rng(0).random(1500).astype(np.float32)
    centre = np.full(19, 2.5, np.float32)
    centred = (rows * factors[:, None] - centre).astype(np.float64)
    for compiled in (True, False):
        if not compiled:
            monkeypatch.setitem(sys.modules, "fastreid.retrieval.rank_cylib.rank_cy", None)
        np.testing.assert_allclose(squared_lengths(rows), (rows.astype(np.float64) ** 2).sum(1), rtol=1e-12)
        np.testing.assert_allclose(squared_lengths(rows, factors, centre), (centred**2).sum(1), rtol=1e-12)
        assert squared_lengths(rows[:0]).shape == (0,)


def test_reranking_without_kernels(monkeypatch):
    people = np.arange(120) % 12
    rows = np.round(rows_about(0, n=120, dim=16, people=people) * 2**9) / 2**9
    monkeypatch.setattr(compiled_engine, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "fastreid.retrieval.rank_cylib.rank_cy", None)
    found = []
    for offset in (0, 1000):
        moved = (rows + offset).astype(np.float32)
        plain = TorchDistances(moved[:20], moved[20:], metric="euclidean")
        again = RerankedDistances(plain, moved[:20], moved[20:], k1=8, k2=3, metric="euclidean")
        found.append(again.rows(0, 20))
    np.testing.assert_allclose(*found, atol=2e-4)
    tiny, plain = (jaccard_graph(rows.astype(np.float32) * scale, k1=8).toarray() for scale in (np.float32(1e-25), 1))
    np.testing.assert_allclose(tiny, plain, atol=1e-4)
