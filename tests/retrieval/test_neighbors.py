"""Nearest neighbours against a stable sort of all distances, by every search."""

import sys
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastreid.retrieval import compiled_engine, neighbors
from fastreid.retrieval.compiled_engine import distance_rows
from fastreid.retrieval.neighbors import nearest_neighbors
from fastreid.utils import optional


def features(seed, n, dim, levels=None):
    rows = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return rows if levels is None else np.round(rows * levels) / levels


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(1, 90), st.integers(1, 40), st.sampled_from([None, 1]),
    st.sampled_from(["cosine", "euclidean"]), st.integers(1, 4), st.data(),
)  # fmt: skip
def test_compiled_is_a_stable_sort(seed, n, dim, levels, metric, num_threads, data):
    rows = features(seed, n, dim, levels)
    k = data.draw(st.integers(1, n))
    everyone = distance_rows(rows, rows, metric=metric)
    order = np.argsort(everyone, axis=1, kind="stable")[:, :k]
    found = nearest_neighbors(rows, k, metric=metric, search="compiled", with_farthest=True, num_threads=num_threads)
    np.testing.assert_array_equal(found.indices, order)
    assert found.distances.tobytes() == np.take_along_axis(everyone, order, 1).tobytes()
    np.testing.assert_array_equal(found.farthest, everyone.max(axis=1))


def rows_of(what, seed, n, dim):
    rng = np.random.default_rng(seed)
    rows = features(seed, n, dim)
    if what == "clusters":
        rows = rows[rng.integers(0, 5, n)] + np.float32(1e-3) * rows
    elif what == "copies":
        rows = rows[rng.integers(0, n // 3, n)]
    elif what == "lengths":
        rows *= np.float32(10.0) ** rng.integers(-4, 4, (n, 1)).astype(np.float32)
    elif what == "far away":
        rows += np.float32(1000)
    elif what == "tiny":
        rows *= np.float32(1e-20)  # squares below the normal numbers of float32
    elif what == "heavy tails":  # beyond the range of bytes
        rows = rng.standard_t(2, (n, dim)).astype(np.float32)
    elif what == "outliers":  # images that are far from all others, beyond the reach of the sample's lists
        rows[np.arange(n) % 50 != 1] = np.abs(rows[np.arange(n) % 50 != 1])
    return rows


WHAT = ["noise", "clusters", "copies", "lengths", "far away", "tiny", "heavy tails", "outliers"]


def kinds_here():
    """Kinds of coarse products of this CPU; torch has those of a matrix unit on every CPU."""
    rank_cy = pytest.importorskip("fastreid.retrieval.rank_cylib.rank_cy")
    return [kind for kind in ("bytes", "pairs") if rank_cy.has_coarse(kind)] + ["matrix"]


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(200, 500), st.integers(1, 200), st.integers(1, 12),
    st.sampled_from(["cosine", "euclidean"]), st.sampled_from(WHAT), st.integers(0, 2), st.booleans(), st.booleans(),
)  # fmt: skip
def test_coarse_search_finds_the_same(seed, n, dim, k, metric, what, number, with_farthest, tried):
    """Also where it does not pay; the error bound must hold for similar images and different lengths."""
    kinds = kinds_here()
    kind, rows = kinds[number % len(kinds)], rows_of(what, seed, n, dim)
    everyone = distance_rows(rows, rows, metric=metric)
    order = np.argsort(everyone, axis=1, kind="stable")[:, :k]

    class Search(neighbors._CoarseSearch):
        def is_worthwhile(self):
            return super().is_worthwhile() or tried  # without a sample lists reach everywhere

    with patch.multiple(neighbors, _coarse_kinds=lambda _: [kind], _CoarseSearch=Search):
        threads = torch.get_num_threads() if kind == "matrix" else 2
        found = nearest_neighbors(rows, k, metric=metric, num_threads=threads, with_farthest=with_farthest)
    if with_farthest:
        np.testing.assert_array_equal(found.farthest, everyone.max(axis=1))
    np.testing.assert_array_equal(found.indices, order)
    assert found.distances.tobytes() == np.take_along_axis(everyone, order, 1).tobytes()


@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_no_coarse_distance_has_a_greater_error_than_its_bound(what, metric):
    for kind in kinds_here():
        for dim in (1, 2, 3, 7, 130, 1000):
            rows = rows_of(what, dim, 240, dim)
            search = neighbors._Search(rows, None, 3, metric, torch.device("cpu"), False, 1)
            fitted, _, _ = search.fitted()
            rows, *scales = fitted.scales(fitted.read(rows), 0, "image", 1)
            coarse = neighbors._CoarseSearch(rows, scales, fitted, search, kind)
            with patch.object(neighbors, "_coarse_length", lambda *_: 240):
                lists = coarse._lists(len(rows))
            coarse._offer(lists, slice(None), each_pair_once=True)
            images, distances, _ = lists.read()
            exact = np.take_along_axis(distance_rows(rows, rows, metric=metric).astype(np.float64), images, 1)
            assert np.isfinite(coarse._error).all()
            assert (np.abs(distances - exact) <= coarse._error[:, None]).all(), (kind, dim)


def recorded(monkeypatch):
    """Images whose lists are searched exactly, as they may be incomplete."""
    completed = []

    class Search(neighbors._CoarseSearch):
        def _complete(self, found, unsure):
            completed.extend(unsure.tolist())
            super()._complete(found, unsure)

    monkeypatch.setattr(neighbors, "_CoarseSearch", Search)
    return completed


def test_few_images_are_far_from_the_rows_of_the_sample(monkeypatch):
    """Their lists end before k images, as nothing is within reach; they are searched exactly."""
    kind = kinds_here()[0]
    rows = features(0, 100, 256).repeat(20, 0) + np.float32(0.5) * features(1, 2000, 256)
    outliers = np.setdiff1d(np.arange(2000), neighbors._sample(2000))[::300]
    rows[outliers] = features(2, len(outliers), 256)
    monkeypatch.setattr(neighbors, "_coarse_kinds", lambda _: [kind])
    completed = recorded(monkeypatch)
    found = nearest_neighbors(rows, 5, num_threads=2)
    assert {*outliers} <= {*completed} and len(completed) < 100
    everyone = distance_rows(rows, rows)
    np.testing.assert_array_equal(found.indices, np.argsort(everyone, axis=1, kind="stable")[:, :5])


def test_an_order_with_a_period_does_not_mislead_the_sample(monkeypatch):
    """Every seventh image is of a few people, and the others have no near images."""
    monkeypatch.setattr(neighbors, "_coarse_kinds", lambda _: kinds_here()[:1])
    completed = recorded(monkeypatch)
    rows = features(0, 2000, 256)
    rows[::7] = features(1, 5, 256)[np.arange(286) % 5] + np.float32(0.3) * rows[::7]
    found = nearest_neighbors(rows, 5, num_threads=2)
    assert len(completed) < 400
    np.testing.assert_array_equal(found.indices, np.argsort(distance_rows(rows, rows), axis=1, kind="stable")[:, :5])


@pytest.mark.parametrize("scale", [1e-18, 1e-19, 5e17])
def test_numbers_near_the_ends_of_float32(scale, recwarn):
    """Also where denormal numbers count as zero, as some programs set it for the process."""
    rows = rows_of("heavy tails" if scale < 1 else "noise", 1, 600, 32) * np.float32(scale)
    expected = np.argsort(distance_rows(rows, rows, metric="euclidean"), axis=1, kind="stable")[:, :3]
    for kind in kinds_here():
        torch.set_flush_denormal(True)
        try:
            with patch.object(neighbors, "_coarse_kinds", lambda _, kind=kind: [kind]):
                found = nearest_neighbors(rows, 3, metric="euclidean", num_threads=torch.get_num_threads())
        finally:
            torch.set_flush_denormal(False)
        if scale != 1e-19:  # there distances themselves are denormal
            np.testing.assert_array_equal(found.indices, expected)
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]


def test_bytes_first_where_the_farthest_are_not_asked_for(monkeypatch):
    rank_cy = pytest.importorskip("fastreid.retrieval.rank_cylib.rank_cy")
    monkeypatch.setattr(neighbors, "has_matrix_unit", lambda: False)
    search = neighbors._Search(features(0, 500, 8), None, 3, "cosine", torch.device("cpu"), False, 2)
    here = [kind for kind in ("bytes", "pairs") if rank_cy.has_coarse(kind)]
    assert neighbors._coarse_kinds(search) == here
    without_bytes = [kind for kind in here if kind != "bytes"]
    assert neighbors._coarse_kinds(replace(search, with_farthest=True)) == without_bytes
    assert neighbors._coarse_kinds(replace(search, features=np.zeros((500, 40_000), np.float32))) == without_bytes


@pytest.mark.parametrize("search", ["compiled", "torch", "faiss"])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("other_gallery", [False, True])
def test_every_search_finds_the_same(search, metric, other_gallery, monkeypatch):
    if search == "faiss":
        pytest.importorskip("faiss")
    monkeypatch.setattr(neighbors, "_SEGMENT_ROWS", 64)
    monkeypatch.setattr(neighbors, "_BLOCK_BYTES", 5000)
    rows, gallery = features(1, 150, 24), features(2, 333, 24) if other_gallery else None
    expected = distance_rows(rows, rows if gallery is None else gallery, metric=metric)
    order = np.argsort(expected, axis=1, kind="stable")[:, :9]
    found = nearest_neighbors(rows, 9, gallery=gallery, metric=metric, search=search, with_farthest=gallery is None)
    np.testing.assert_array_equal(found.indices, order)
    np.testing.assert_allclose(found.distances, np.take_along_axis(expected, order, 1), atol=2e-5)
    if gallery is None:
        np.testing.assert_allclose(found.farthest, expected.max(axis=1), rtol=1e-5)


def test_auto_is_torch_where_nothing_is_compiled(monkeypatch):
    rows = features(3, 40, 8)
    compiled = nearest_neighbors(rows, 5)
    monkeypatch.setattr(compiled_engine, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "fastreid.retrieval.rank_cylib.rank_cy", None)
    np.testing.assert_array_equal(nearest_neighbors(rows, 5).indices, compiled.indices)


@pytest.mark.parametrize("search", ["compiled", "torch", "faiss"])
def test_wrong_arguments_raise(search):
    if search == "faiss":
        pytest.importorskip("faiss")
    rows = features(0, 20, 8)
    for k in (0, 21):
        with pytest.raises(ValueError, match=f"between 1 and the number of images, 20, got {k}"):
            nearest_neighbors(rows, k, search=search)
    rows[7, 2] = np.inf
    with pytest.raises(ValueError, match="image 7 is not finite"):
        nearest_neighbors(rows, 3, search=search)


@pytest.mark.parametrize("search", ["compiled", "torch"])
def test_a_gallery_may_be_larger_or_smaller_than_the_queries(search):
    rows, few = features(0, 20, 8), features(1, 5, 8)
    for queries, gallery in ((rows, few), (few, rows)):
        found = nearest_neighbors(queries, len(gallery), gallery=gallery, search=search)
        assert (np.sort(found.indices, axis=1) == np.arange(len(gallery))).all() and found.farthest is None
        with pytest.raises(ValueError, match=f"number of images, {len(gallery)}, got {len(gallery) + 1}"):
            nearest_neighbors(queries, len(gallery) + 1, gallery=gallery, search=search)
    none = nearest_neighbors(rows[:0], 3, gallery=few, search=search)
    assert none.indices.shape == none.distances.shape == (0, 3)


@pytest.mark.parametrize("search", ["compiled", "torch"])
def test_a_gallery_is_spread_if_one_segment_is(search, monkeypatch):
    """Rows whose squared distances float32 rounds to zero are refused only if those of all segments are."""
    monkeypatch.setattr(neighbors, "_SEGMENT_ROWS", 16)
    near = features(0, 48, 8) * np.float32(1e-25)
    spread = np.concatenate([near, features(1, 16, 8)])
    for gallery in (spread, spread[::-1]):
        assert nearest_neighbors(near, 3, gallery=gallery, metric="euclidean", search=search).indices.shape == (48, 3)
    # Copies of the centre have no distance to it; in any order they do not hide that the others are too close.
    for gallery in (np.concatenate([near, near[:1].repeat(80, 0)]), np.concatenate([near[:1].repeat(80, 0), near])):
        with pytest.raises(ValueError, match="float32 has no room"):
            nearest_neighbors(near, 3, gallery=gallery, metric="euclidean", search=search)


def test_coarse_search_is_left_out_where_images_are_much_alike(monkeypatch):
    monkeypatch.setattr(neighbors, "_coarse_kinds", lambda _: kinds_here()[:1])
    answers = []
    is_worthwhile = neighbors._CoarseSearch.is_worthwhile
    monkeypatch.setattr(
        neighbors._CoarseSearch, "is_worthwhile", lambda self: answers.append(bool(is_worthwhile(self))) or answers[-1]
    )
    noise = features(0, 600, 128)
    alike = noise[:6].repeat(100, 0) + np.float32(1e-4) * noise
    for rows in (noise, alike):
        nearest_neighbors(rows, 4)
    assert answers == [True, False]


def test_unknown_search_and_missing_faiss(monkeypatch, caplog):
    with pytest.raises(ValueError, match="'fais'; did you mean 'faiss'"):
        nearest_neighbors(features(0, 5, 3), 2, search="fais")
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(optional, "_logged", set())
    rows = features(0, 5, 3)
    found = nearest_neighbors(rows, 2, search="faiss")
    assert np.array_equal(found.indices, nearest_neighbors(rows, 2).indices)
    assert "the package faiss is not installed" in caplog.text and "pip install faiss-cpu" in caplog.text
