"""Distances of rows in every storage, out of range, few, and on any machine."""

import numpy as np
import pytest
import torch

from fastreid.evaluation.roc import roc_curve
from fastreid.retrieval import compiled_engine, neighbors, torch_engine
from fastreid.retrieval.compiled_engine import CompiledDistances, distance_rows
from fastreid.retrieval.matches import match_labels
from fastreid.retrieval.metric import FittedMetric, fit_metric, metric_named
from fastreid.retrieval.neighbors import nearest_neighbors
from fastreid.retrieval.ranking import rank_queries
from fastreid.retrieval.torch_engine import TorchDistances, build_dist
from tests.evaluation.test_roc import protocol
from tests.retrieval.test_metric import ENGINES, needs_kernels, rows_about, true_distances


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
