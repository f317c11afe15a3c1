"""Distances are accurate wherever rows lie and however long they are, compared with differences in float64."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastreid.evaluation.roc import roc_curve
from fastreid.evaluation.scoring import score_features
from fastreid.evaluation.scoring_options import Expansion, Reranking, Scoring
from fastreid.retrieval import compiled_engine, neighbors, torch_engine
from fastreid.retrieval.compiled_engine import CompiledDistances, distance_rows
from fastreid.retrieval.matches import match_labels
from fastreid.retrieval.metric import FittedMetric, fit_metric, metric_named, squared_lengths
from fastreid.retrieval.neighbors import nearest_neighbors
from fastreid.retrieval.query_expansion import aqe, expand
from fastreid.retrieval.ranking import rank_queries
from fastreid.retrieval.reranking import RerankedDistances, jaccard_distances, jaccard_graph
from fastreid.retrieval.torch_engine import TorchDistances, build_dist
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


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "int16", "int64", "float64", "memory map", "turned", "tensor"])
@pytest.mark.parametrize("distances", ENGINES.values())
def test_every_storage_keeps_what_it_holds(kind, distances, tmp_path):
    offset = {"float16": 1000, "bfloat16": 100, "int16": 30_000, "int64": 2**40, "float64": 1e9}.get(kind, 1000)
    query, gallery = (rows_about(0, n=n, dim=24, seed=n) for n in (20, 200))
    stored = {
        "float16": lambda x: (x.astype(np.float64) + offset).astype(np.float16),
        "bfloat16": lambda x: torch.from_numpy(x + offset).bfloat16(),
        "int16": lambda x: np.round(20 * x + offset).astype(np.int16),
        "int64": lambda x: np.round(20 * x.astype(np.float64) + offset).astype(np.int64),
        "float64": lambda x: x.astype(np.float64) + offset,
        "memory map": lambda x: _mapped(x + offset, tmp_path),
        "turned": lambda x: np.asfortranarray(x + np.float32(offset))[::-1],
        "tensor": lambda x: torch.from_numpy(x + offset).double(),
    }[kind]
    query, gallery = stored(query), stored(gallery)
    exact = [x.double().numpy() if isinstance(x, torch.Tensor) else x.astype(np.float64) for x in (query, gallery)]
    made = distances(query, gallery, metric="euclidean", memory_budget=0.01)
    found, expected = made.rows(0, 20), true_distances(*exact, "euclidean")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * expected.mean())
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 5, 20), rng.integers(0, 5, 200), np.arange(20) % 3, rng.integers(0, 3, 200)
    true = rank_queries(expected, *ids).mean_ap
    assert made.rank(match_labels(*ids)).mean_ap == pytest.approx(true, abs=1e-4)


def _mapped(rows, folder):
    path = folder / f"{len(rows)}.npy"
    np.save(path, rows)
    return np.load(path, mmap_mode="r")


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("stored", [np.float32, np.float64])
def test_steps_of_a_gpu_on_the_cpu(metric, stored, monkeypatch):
    """Run the steps of a GPU: the gallery is converted once, lengths are torch's, rows are centred in other parts."""
    query, gallery = (rows_about(1000, n=n, dim=24, seed=n).astype(stored) for n in (20, 200))
    expected = TorchDistances(query, gallery, metric=metric).rows(0, 20)
    monkeypatch.setattr(
        torch_engine,
        "_squared_lengths",
        lambda rows, factors=None, centre=None: torch_engine._squared_lengths_on_device(rows, factors, centre),
    )
    monkeypatch.setattr(torch_engine, "CENTRED_ROWS", 64)
    moved = TorchDistances(query, gallery, metric=metric)
    moved._move_once()
    assert isinstance(moved._gallery, torch.Tensor) and moved._gallery.dtype == torch.float32
    np.testing.assert_allclose(moved.rows(0, 20), expected, rtol=1e-5)
    tiny = TorchDistances(query * stored(1e-40), gallery * stored(1e-40))
    np.testing.assert_allclose(tiny.rows(0, 20), TorchDistances(query, gallery).rows(0, 20), atol=1e-4)


@pytest.mark.parametrize("distances", ENGINES.values())
def test_sides_of_two_types_share_one_centre(distances):
    query, gallery = rows_about(500, n=20), rows_about(500, n=100, seed=1)
    expected = true_distances(query, gallery, "euclidean")
    for q, g in ((query.astype(np.float64), gallery), (query, gallery.astype(np.float64))):
        np.testing.assert_allclose(distances(q, g, metric="euclidean").rows(0, 20), expected, rtol=1e-5)
    np.testing.assert_allclose(
        build_dist(torch.from_numpy(query), torch.from_numpy(gallery), "euclidean"), expected, 1e-5
    )


@pytest.mark.parametrize("distances", ENGINES.values())
def test_whole_numbers_are_exact_and_so_are_their_ties(distances):
    rng = np.random.default_rng(0)
    query, gallery = (rng.integers(0, 4, (n, 30)) for n in (20, 300))
    expected = true_distances(query, gallery, "euclidean")
    for offset in (0, 1000, 10_000):
        for dtype in (np.float32, np.int32, np.float64):
            moved = [(side + offset).astype(dtype) for side in (query, gallery)]
            np.testing.assert_array_equal(distances(*moved, metric="euclidean").rows(0, 20), expected)


@pytest.mark.parametrize("distances", ENGINES.values())
def test_distant_rows_do_not_reduce_the_accuracy_of_others(distances):
    query, gallery = rows_about(0, n=20), rows_about(0, n=300, seed=1)
    expected = true_distances(query, gallery, "euclidean")
    gallery[::8] *= np.float32(1e6)  # an eighth: a mean would be far from all rows
    found = distances(query, gallery, metric="euclidean").rows(0, 20)
    near = np.arange(300) % 8 > 0
    np.testing.assert_allclose(found[:, near], expected[:, near], rtol=1e-5)
    matches = match_labels(np.zeros(20, int), np.arange(300) % 5, np.zeros(20, int), np.ones(300, int))
    assert roc_curve(distances(query, gallery, metric="euclidean"), matches).num_right == 20 * 60


@pytest.mark.parametrize("distances", ENGINES.values())
@pytest.mark.parametrize("stored", [np.float32, np.float64])
def test_rows_beyond_the_range_of_float32_are_refused(distances, stored):
    query, gallery, *_ = protocol(1, q=5, g=40, dim=6)
    matches = match_labels([0] * 5, [0, 1] * 20, [0] * 5, [1] * 40)
    for side in (query, gallery):
        with pytest.raises(ValueError, match="multiply all descriptors by one number"):
            distances(query * stored(1e-25), gallery * stored(1e-25), metric="euclidean").rank(matches)
        side[3] *= np.float32(1e30)
        name = "query" if side is query else "gallery"
        with pytest.raises(ValueError, match=f"{name} image 3 is too long"):
            distances(query.astype(stored), gallery.astype(stored), metric="euclidean").rank(matches)
        side[3] *= np.float32(1e-30)
    if stored == np.float64:
        for wrong, said in ((1e300, "too long"), (np.inf, "not finite"), (np.nan, "not finite")):
            spoilt = gallery.astype(stored)
            spoilt[4, 1] = wrong
            with pytest.raises(ValueError, match=f"gallery image 4 is {said}"):
                distances(query, spoilt, metric="euclidean").rank(matches)
    same = np.ones((5, 6), stored)
    assert (distances(same, same, metric="euclidean").rows(0, 5) == 0).all()  # equal rows are allowed


@pytest.mark.parametrize("distances", ENGINES.values())
@pytest.mark.parametrize("size", [1e-25, 1e-40, 1e-46, 1e-100, 1e-200, 1e-300])
def test_spreads_that_float32_rounds_to_zero_are_refused(distances, size):
    query, gallery, *_ = (x.astype(np.float64) for x in protocol(1, q=5, g=40, dim=6))
    matches = match_labels([0] * 5, [0, 1] * 20, [0] * 5, [1] * 40)
    for offset in (0.0, size * 1000):
        with pytest.raises(ValueError, match="float32 has no room"):
            distances(query * size + offset, gallery * size + offset, metric="euclidean").rank(matches)
    gallery[8:] *= size  # next to rows of usual lengths, rows near zero count as zeros
    zeros = np.where(np.arange(40)[:, None] < 8, gallery, 0)
    found, expected = (distances(query, rows, metric="euclidean").rows(0, 5) for rows in (gallery, zeros))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("search", ["auto", "torch"])
@pytest.mark.parametrize("size", [1e-25, 1e-200])
def test_searches_refuse_spreads_that_float32_rounds_to_zero(search, size):
    query, gallery, *_ = (x.astype(np.float64) for x in protocol(1, q=5, g=40, dim=6))
    for arguments in ({"gallery": gallery * size}, {}):
        with pytest.raises(ValueError, match="float32 has no room"):
            nearest_neighbors(query * size, 3, metric="euclidean", search=search, **arguments)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("few", [1, 2, 3])
def test_few_rows(metric, few):
    rows = rows_about(1000, n=few, dim=5)
    for distances in (CompiledDistances, TorchDistances) if compiled_engine.is_available() else (TorchDistances,):
        found = distances(rows[:1], rows, metric=metric).rows(0, 1)
        np.testing.assert_allclose(found, true_distances(rows[:1], rows, metric), rtol=1e-3, atol=1e-9)
    assert nearest_neighbors(rows, few, metric=metric, search="torch").indices.shape == (few, few)
    none = TorchDistances(rows[:0], rows, metric=metric)
    assert none.rows(0, 0).shape == (0, few)


def test_the_centre_is_one_of_the_values_and_depends_on_the_rows_only():
    rows = rows_about(1000, n=500, dim=7)
    space = fit_metric(metric_named("euclidean"), rows[:3], rows)
    assert all(value in column for value, column in zip(space.centre, rows.T, strict=True))
    again = fit_metric(metric_named("euclidean"), torch.from_numpy(rows), torch.from_numpy(rows))
    assert again.centre.tobytes() == space.centre.tobytes()
    rows[::2] = np.nan
    assert np.isfinite(fit_metric(metric_named("euclidean"), rows, rows).centre).all()
    ordinary = rows_about(0.5, n=500, dim=64)
    assert not fit_metric(metric_named("cosine"), ordinary, ordinary).is_centred
    assert fit_metric(metric_named("cosine"), ordinary + 100, ordinary + 100).is_centred
    assert isinstance(space, FittedMetric)


@needs_kernels
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("instructions", ["avx512", "avx2", "portable"])
@pytest.mark.parametrize("rows_at_once", [10_000, 7])
def test_bits_do_not_depend_on_the_machine_or_the_blocks(metric, instructions, rows_at_once, monkeypatch):
    from fastreid.retrieval.rank_cylib.rank_cy import instruction_set

    if instruction_set(instructions) is None:
        pytest.skip(f"this CPU has no {instructions}")
    query, gallery = rows_about(1000, n=70, dim=37), rows_about(1000, n=500, dim=37, seed=1)
    gallery[5] *= np.float32(1e-39) if metric == "cosine" else np.float32(0.5)
    expected = distance_rows(query, gallery, metric=metric)
    monkeypatch.setattr(compiled_engine, "SEGMENT_ROWS", rows_at_once)
    monkeypatch.setattr(neighbors, "_SEGMENT_ROWS", rows_at_once)
    found = CompiledDistances(query, gallery, metric=metric, instructions=instructions, num_threads=3)
    assert found.rows(0, 70).tobytes() == expected.tobytes()
    assert found.rows(0, 70).tobytes() == expected.tobytes()  # from the cached scales
    mapped = CompiledDistances(query, np.asfortranarray(gallery), metric=metric, num_threads=1, memory_budget=0.01)
    assert mapped.rows(0, 70).tobytes() == expected.tobytes()
    near = nearest_neighbors(query, 9, gallery=gallery, metric=metric, search="compiled")
    order = np.argsort(expected, axis=1, kind="stable")[:, :9]
    np.testing.assert_array_equal(near.indices, order)
    assert near.distances.tobytes() == np.take_along_axis(expected, order, 1).tobytes()
