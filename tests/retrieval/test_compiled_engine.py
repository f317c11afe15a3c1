"""Rankings of descriptors have the bits of the whole matrix for any block, threads, instruction set or storage."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastreid.retrieval import compiled_engine, distance_rows, rank_features
from fastreid.retrieval.distances import MatrixDistances
from fastreid.retrieval.histogram import PairCounter
from fastreid.retrieval.matches import NoValidQueryError, match_labels
from fastreid.retrieval.metric import METRICS, FittedMetric
from fastreid.retrieval.ranking import rank_queries
from fastreid.retrieval.torch_engine import TorchDistances

pytestmark = pytest.mark.skipif(not compiled_engine.is_available(), reason="extension not compiled")
FIELDS = ("ap", "inp", "first_match_rank", "num_positives", "num_valid_gallery", "ap_optimistic", "ap_pessimistic")


def protocol(num_q=40, num_g=900, dim=37, people=9, cameras=3, seed=0, junk=0.1, levels=None):
    """Clustered descriptors and ids; `levels` rounds the descriptors, which makes ties."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((people, dim))
    q_pids, g_pids = rng.integers(0, people, num_q), rng.integers(0, people, num_g)
    query, gallery = (centres[p] + 1.5 * rng.standard_normal((len(p), dim)) for p in (q_pids, g_pids))
    if levels:
        query, gallery = (np.round(x * levels / 3).clip(-levels, levels) for x in (query, gallery))
    g_pids[rng.random(num_g) < junk] = -1
    q_cams, g_cams = rng.integers(0, cameras, num_q), rng.integers(0, cameras, num_g)
    return query.astype(np.float32), gallery.astype(np.float32), q_pids, g_pids, q_cams, g_cams


def same(a, b):
    return all(getattr(a, name).tobytes() == getattr(b, name).tobytes() for name in FIELDS)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("levels", [None, 1], ids=["distinct", "ties"])
def test_same_bits_as_ranking_the_distance_matrix(metric, levels):
    data = protocol(levels=levels, seed=1)
    whole = rank_queries(distance_rows(*data[:2], metric=metric), *data[2:])
    assert same(whole, rank_features(*data, metric=metric))
    worst, best = whole.mean_ap_bounds
    assert (worst < best) == bool(levels)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 200), st.integers(1, 40), st.integers(1, 6), st.integers(1, 3),
    st.integers(0, 10**6), st.sampled_from([None, 1]), st.sampled_from(list(METRICS)),
)  # fmt: skip
def test_any_shape(num_q, num_g, dim, people, cameras, seed, levels, metric):
    data = protocol(num_q, num_g, dim, people, cameras, seed, levels=levels)
    try:
        whole = rank_queries(distance_rows(*data[:2], metric=metric), *data[2:], use_cython=False)
    except NoValidQueryError:
        with pytest.raises(NoValidQueryError):
            rank_features(*data, metric=metric)
        return
    assert same(whole, rank_features(*data, metric=metric))


@pytest.mark.parametrize("instructions", ["avx512", "avx2", "portable"])
@pytest.mark.parametrize("metric", METRICS)
def test_instruction_sets_give_the_same_bits(instructions, metric):
    from fastreid.retrieval.rank_cylib.rank_cy import instruction_set

    if instruction_set(instructions) is None:
        pytest.skip(f"this CPU has no {instructions}")
    data = protocol(dim=131)
    rows = distance_rows(*data[:2], metric=metric, instructions="portable")
    assert rows.tobytes() == distance_rows(*data[:2], metric=metric, instructions=instructions).tobytes()
    widest = rank_features(*data, metric=metric)
    assert same(widest, rank_features(*data, metric=metric, instructions=instructions))


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("rows", [32_768, 100, 1])
def test_threads_and_blocks_give_the_same_bits(threads, rows, monkeypatch):
    data = protocol(num_q=300)
    expected = rank_features(*data)
    monkeypatch.setattr(compiled_engine, "SEGMENT_ROWS", rows)
    # A budget that is too small still takes 256 queries at once.
    assert same(expected, rank_features(*data, num_threads=threads, memory_budget=0.001))


def test_distances_equal_their_formulas():
    query, gallery, *_ = protocol()
    lengths = (np.linalg.norm(query, axis=1)[:, None], np.linalg.norm(gallery, axis=1)[None])
    cosine = 1 - query.astype(float) @ gallery.T.astype(float) / (lengths[0] * lengths[1])
    np.testing.assert_allclose(distance_rows(query, gallery), cosine, atol=2e-6)
    euclidean = ((query[:, None].astype(float) - gallery[None]) ** 2).sum(-1)
    np.testing.assert_allclose(distance_rows(query, gallery, metric="euclidean"), euclidean, rtol=1e-4)
    assert (distance_rows(gallery, gallery, metric="euclidean") >= 0).all()
    row = compiled_engine.CompiledDistances(query, gallery).row(3)
    assert row.tobytes() == distance_rows(query, gallery)[3].tobytes()


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "memory map", "float64", "transposed", "tensor"])
def test_every_storage_gives_the_same_figures(kind, tmp_path):
    query, gallery, *ids = protocol(num_g=3000)
    stored = {
        "float16": lambda x: x.astype(np.float16),
        "bfloat16": lambda x: torch.from_numpy(x).bfloat16(),
        "memory map": lambda x: _mapped(x, tmp_path),
        "float64": lambda x: x.astype(np.float64),
        "transposed": lambda x: np.ascontiguousarray(x.T).T,
        "tensor": torch.from_numpy,
    }[kind]
    rounded = {
        "float16": lambda x: x.astype(np.float16).astype(np.float32),
        "bfloat16": lambda x: torch.from_numpy(x).bfloat16().float().numpy(),
    }.get(kind, lambda x: x)
    expected = rank_features(rounded(query), rounded(gallery), *ids)
    assert same(expected, rank_features(stored(query), stored(gallery), *ids))


def _mapped(rows, folder):
    path = folder / f"{len(rows)}.npy"
    np.save(path, rows)
    return np.load(path, mmap_mode="r")


def test_torch_distances_equal_compiled_ones_up_to_rounding():
    query, gallery, *ids = protocol()
    tensors = torch.from_numpy(query), torch.from_numpy(gallery)
    expected = rank_features(query, gallery, *ids)
    for budget in (64, 0.05):
        distances = TorchDistances(*tensors, memory_budget=budget)
        found = distances.rank(match_labels(*ids))
        assert found.mean_ap == pytest.approx(expected.mean_ap, abs=1e-6)
        np.testing.assert_allclose(distances.row(17), distance_rows(query, gallery)[17], atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("side", ["query", "gallery"])
def test_descriptors_that_are_not_finite_are_named(bad, side):
    data = list(protocol())
    data[0 if side == "query" else 1][23, 5] = bad
    with pytest.raises(ValueError, match=f"descriptor of {side} image 23 is (not finite|too long)"):
        rank_features(*data)


def test_wrong_arguments():
    query, gallery, *ids = protocol()
    with pytest.raises(ValueError, match=r"\[40, 36\] and gallery descriptors \[900, 37\] must be"):
        rank_features(query[:, :36], gallery, *ids)
    with pytest.raises(ValueError, match="39 query and 900 gallery descriptors, but ids of 40 and 900"):
        rank_features(query[:39], gallery, *ids)
    with pytest.raises(ValueError, match="unknown distance metric .*did you mean 'cosine'"):
        rank_features(query, gallery, *ids, metric="cosin")
    with pytest.raises(ValueError, match="this CPU has no instruction set 'sse'"):
        rank_features(query, gallery, *ids, instructions="sse")


def test_zero_vectors_have_cosine_distance_one():
    query, gallery, *_ = protocol()
    gallery[7] = 0
    assert (distance_rows(query, gallery)[:, 7] == 1).all()


@pytest.mark.parametrize("stored", ["float32", "float16", "transposed"])
def test_the_error_names_the_row_of_the_caller(stored):
    query, gallery, *ids = protocol()
    ids[0] = ids[0].copy()
    ids[0][1:3] = 10**6  # no match: these queries are skipped, and rows shift
    for side, rows in (("query", query), ("gallery", gallery)):
        spoilt = rows.copy()
        spoilt[27, 5] = np.nan
        if stored == "transposed":
            spoilt = np.asfortranarray(spoilt)
        data = [query, gallery, *ids]
        data[side == "gallery"] = spoilt.astype(np.float16) if stored == "float16" else spoilt
        with pytest.raises(ValueError, match=f"{side} image 27 is not finite"):
            rank_features(*data)


def test_descriptors_too_long_for_squared_distances_raise():
    query, gallery, *ids = protocol()
    query[3] *= 9e17
    with pytest.raises(ValueError, match="query image 3 is too long for float32"):
        rank_features(query, gallery, *ids, metric="euclidean")
    assert rank_features(query, gallery, *ids).num_valid_queries  # cosine distances do not depend on the length


@pytest.mark.parametrize("kind", ["float32", "float16", "float64"])
def test_the_gallery_is_read_in_parts_that_fit_the_budget(kind, monkeypatch):
    query, gallery, *ids = protocol()
    sizes = []
    read = FittedMetric.read
    monkeypatch.setattr(FittedMetric, "read", lambda self, rows: sizes.append(len(rows)) or read(self, rows))
    stored = gallery.astype(kind)
    rank_features(query, stored, *ids, memory_budget=0.05)
    assert max(sizes[1:]) <= (900 if kind == "float32" else 0.05 * 2**20 / 4 / (4 * gallery.shape[1]) + 1)


@pytest.mark.parametrize("budget", [0.001, 0.1, 64])
def test_queries_are_packed_in_parts_that_fit_the_budget(budget, monkeypatch):
    query, gallery, *ids = protocol(num_q=600)
    sizes = []
    pack = compiled_engine.CompiledDistances._queries
    monkeypatch.setattr(
        compiled_engine.CompiledDistances, "_queries", lambda self, rows: sizes.append(len(rows)) or pack(self, rows)
    )
    rank_features(query, gallery, *ids, memory_budget=budget)
    at_once = {0.001: 256, 0.1: int(0.1 * 2**20 / 2 / (4 * query.shape[1])), 64: 600}[budget]  # 256 at least
    assert sum(sizes) == 600 and max(sizes) == at_once


def test_no_queries_give_no_rows():
    query, gallery, *_ = protocol()
    assert distance_rows(query[:0], gallery).shape == (0, 900)
    assert compiled_engine.CompiledDistances(query, gallery, memory_budget=float("inf")).rows_at_once == 40


def test_precision_settings_of_the_caller_are_restored():
    query, gallery, *_ = protocol()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        found = TorchDistances(query, gallery[::-1]).rows(0, 40)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    np.testing.assert_allclose(found[:, ::-1], distance_rows(query, gallery), atol=1e-6)


@pytest.mark.parametrize("rows", [64, 899, 900, 4096])
def test_all_pairs_but_junk_are_counted_over_any_segments(rows, monkeypatch):
    monkeypatch.setattr(compiled_engine, "SEGMENT_ROWS", rows)
    query, gallery, *ids = protocol(seed=3, junk=0.2)
    matches = match_labels(*ids)
    counters = [PairCounter([0.3, 0.9], (0.0, 2.0), num_bins=64) for _ in range(2)]
    compiled_engine.CompiledDistances(query, gallery).count_pairs(counters[0], matches)
    MatrixDistances(distance_rows(query, gallery)).count_pairs(counters[1], matches)
    found, expected = (counter.read() for counter in counters)
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    assert found[0].sum() == 40 * (ids[1] >= 0).sum() and (ids[1] < 0).any()
