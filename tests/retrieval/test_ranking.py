"""Rankings of all backends have the bits of a slow implementation of the definition."""

import logging
import sys
from importlib.util import find_spec
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastreid.evaluation import evaluate_rank
from fastreid.retrieval import ranking, ranking_torch
from fastreid.retrieval.matches import NoValidQueryError, match_labels
from fastreid.retrieval.ranking import count_matrix, rank_queries, ranking_of

needs_extension = pytest.mark.skipif(
    find_spec("fastreid.retrieval.rank_cylib.rank_cy") is None, reason="extension not compiled"
)


def by_definition(distances, q_pids, g_pids, q_cams, g_cams, max_rank):
    """Return AP, INP and the match curve of every valid query by sorting whole rows."""
    curves, aps, inps = [], [], []
    for row, pid, cam in zip(distances, q_pids, q_cams, strict=True):
        order = sorted(range(len(row)), key=lambda g: (row[g], g))
        kept = [g for g in order if g_pids[g] != -1 and (g_pids[g], g_cams[g]) != (pid, cam)]
        hits = [g_pids[g] == pid for g in kept]
        if not any(hits):
            continue
        precisions = [sum(hits[: k + 1]) / (k + 1) for k, hit in enumerate(hits) if hit]
        last = max(k for k, hit in enumerate(hits) if hit)
        aps.append(sum(precisions) / len(precisions))
        inps.append(sum(hits) / (last + 1))
        curves.append([any(hits[: k + 1]) for k in range(max_rank)])
    return np.mean(curves, axis=0) if curves else None, aps, inps


@st.composite
def protocols(draw):
    """Draw small protocols with ties, junk, absent ids, one image, or only positives."""
    num_q, num_g = draw(st.integers(1, 5)), draw(st.integers(1, 12))
    pid, cam = st.integers(-1, draw(st.integers(0, 4))), st.integers(0, draw(st.integers(0, 3)))
    levels = draw(st.sampled_from([1, 3, 1000]))  # few levels: many ties
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    distances = (rng.integers(0, levels, (num_q, num_g)) / levels).astype(dtype)

    def ids(values, count):
        return draw(st.lists(values, min_size=count, max_size=count))

    return distances, ids(pid, num_q), ids(pid, num_g), ids(cam, num_q), ids(cam, num_g)


@settings(max_examples=400, deadline=None)
@given(protocols(), st.integers(1, 15))
def test_equals_the_definition(protocol, max_rank):
    cmc, aps, inps = by_definition(*protocol, max_rank)
    if cmc is None:
        with pytest.raises(NoValidQueryError):
            evaluate_rank(*protocol, max_rank=max_rank)
        return
    got = evaluate_rank(*protocol, max_rank=max_rank)
    np.testing.assert_allclose(got[0], cmc, rtol=0, atol=1e-15)
    np.testing.assert_allclose(got[1], aps, rtol=0, atol=1e-15)
    np.testing.assert_allclose(got[2], inps, rtol=0, atol=1e-15)
    assert len(got[0]) == max_rank and (np.diff(got[0]) >= 0).all()


def mean_ap_by_definition(protocol, tie):
    """Return the mAP if `tie(is_right)` orders images of equal distance, after removal."""
    aps = []
    distances, q_pids, g_pids, q_cams, g_cams = protocol
    for row, pid, cam in zip(distances, q_pids, q_cams, strict=True):
        kept = [g for g in range(len(row)) if g_pids[g] != -1 and (g_pids[g], g_cams[g]) != (pid, cam)]
        hits = [g_pids[g] == pid for g in sorted(kept, key=lambda g: (row[g], tie(g_pids[g] == pid)))]
        if any(hits) and pid >= 0:
            precisions = [sum(hits[: k + 1]) / (k + 1) for k, hit in enumerate(hits) if hit]
            aps.append(sum(precisions) / len(precisions))
    return np.mean(aps)


@settings(max_examples=200, deadline=None)
@given(protocols(), st.booleans())
def test_bounds_are_those_of_other_rules_for_ties(protocol, use_cython):
    try:
        ranking = rank_queries(*protocol, use_cython=use_cython)
    except NoValidQueryError:
        return
    worst, best = ranking.mean_ap_bounds
    assert worst == pytest.approx(mean_ap_by_definition(protocol, lambda right: right), abs=1e-12)
    assert best == pytest.approx(mean_ap_by_definition(protocol, lambda right: not right), abs=1e-12)
    assert worst <= ranking.mean_ap + 1e-12 and ranking.mean_ap <= best + 1e-12


@settings(max_examples=200, deadline=None)
@given(protocols(), st.sampled_from([3, 2**24]))
def test_torch_counts_the_same(protocol, at_once):
    """Counts in torch; a tensor on the CPU stands for one on a GPU."""
    distances, *ids = protocol
    matches = match_labels(*ids)
    thresholds, expected = count_matrix(distances, matches, use_cython=False)
    query = np.repeat(np.arange(len(distances)), matches.num_positives)
    order = np.lexsort((matches.positives, distances[query, matches.positives], query))
    layout = matches.positive_starts, matches.removed, matches.removed_starts, matches.junk
    with patch.object(ranking_torch, "_CHUNK", at_once):
        counts = ranking_torch.count_before(torch.from_numpy(distances), matches.positives[order], *layout)
    np.testing.assert_array_equal(counts, expected)


@needs_extension
@settings(max_examples=200, deadline=None)
@given(protocols())
def test_numpy_gives_the_same_bits(protocol):
    try:
        compiled = evaluate_rank(*protocol)
    except NoValidQueryError:
        return
    for ours, theirs in zip(compiled, evaluate_rank(*protocol, use_cython=False), strict=True):
        assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("levels", [2, 50, 10**6])
@pytest.mark.parametrize("num_ids", [2, 40])  # 2: hundreds of positives, the binary-search branch
def test_large_rows_agree_with_a_stable_sort(levels, num_ids):
    rng = np.random.default_rng(levels + num_ids)
    distances = (rng.integers(0, levels, (20, 1500)) / levels).astype(np.float32)
    labels = [rng.integers(low, high, n) for low, high, n in
              ((0, num_ids, 20), (-1, num_ids, 1500), (0, 4, 20), (0, 4, 1500))]  # fmt: skip
    cmc, aps, inps = by_definition(distances, *labels, max_rank=50)
    for use_cython in (True, False):
        got = evaluate_rank(distances, *labels, use_cython=use_cython)
        np.testing.assert_allclose(got[0], cmc, rtol=0, atol=1e-15)
        np.testing.assert_allclose(got[1], aps, rtol=0, atol=1e-14)
        np.testing.assert_allclose(got[2], inps, rtol=0, atol=1e-15)


def test_equal_distances_go_to_the_lower_gallery_index():
    same = np.zeros((1, 3))
    assert rank_queries(same, [1], [2, 1, 3], [0], [1, 1, 1]).first_match_rank.tolist() == [2]
    assert rank_queries(same, [1], [1, 2, 3], [0], [1, 1, 1]).first_match_rank.tolist() == [1]


@pytest.mark.parametrize("use_cython", [True, False])
def test_queries_without_a_positive_have_no_figures(use_cython):
    """Such is the share of one of several processes, for instance."""
    matches = match_labels([0, 1], [2, 3, -1], [0, 0], [1, 1, 1])
    counted = count_matrix(np.random.default_rng(0).random((2, 3)), matches, use_cython=use_cython)
    assert [part.shape for part in counted] == [(0,), (3, 0)]
    ranking = ranking_of(*counted, matches)
    for figures in (ranking.ap, ranking.inp, ranking.ap_optimistic, ranking.ap_pessimistic):
        assert np.isnan(figures).tolist() == [True, True]
    assert ranking.first_match_rank.tolist() == ranking.num_positives.tolist() == [0, 0]
    assert ranking.num_valid_gallery.tolist() == [2, 2]


def test_curve_never_falls_when_fewer_items_than_ranks():
    """fast-reid's compiled curve gives [0, .5, 0, 0, 1, 1] on such an input."""
    distances = np.array([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]])
    g_pids, g_cams = [5, 1, 2, 2, 2, 3], [1, 1, 0, 0, 1, 1]
    cmc, _, _ = evaluate_rank(distances, [1, 2], g_pids, [0, 0], g_cams, max_rank=6)
    assert cmc.tolist() == [0, 0.5, 1, 1, 1, 1]


def test_counts_are_those_after_removal():
    ranking = rank_queries(np.arange(10.0).reshape(2, 5), [1, 9], [1, 1, -1, 2, 1], [0, 0], [0, 1, 1, 1, 2])
    assert ranking.num_positives.tolist() == [2, 0]
    assert ranking.num_valid_gallery.tolist() == [3, 4]
    assert ranking.valid.tolist() == [True, False]
    assert ranking.first_match_rank.tolist() == [1, 0]
    assert np.isnan(ranking.ap[1]) and ranking.inp[0] == 2 / 3


def test_the_matrix_of_the_caller_is_not_changed_and_may_have_any_layout():
    rng = np.random.default_rng(0)
    distances = rng.random((6, 40), dtype=np.float32)
    labels = rng.integers(0, 3, 6), rng.integers(0, 3, 40), rng.integers(0, 2, 6), [3] * 40
    before = distances.copy()
    expected = evaluate_rank(distances, *labels)[1]
    assert (distances == before).all()
    assert (evaluate_rank(np.asfortranarray(distances), *labels)[1] == expected).all()
    distances.flags.writeable = False
    assert (evaluate_rank(distances, *labels)[1] == expected).all()


@pytest.mark.parametrize("kind", ["float16", "int16", "bfloat16", "float64 tensor", "tensor with a gradient"])
def test_distances_of_any_type_are_ranked(kind):
    rng = np.random.default_rng(0)
    distances = rng.integers(0, 200, (6, 40)).astype(np.float32)  # whole numbers, which every type has
    labels = rng.integers(0, 3, 6), rng.integers(0, 3, 40), rng.integers(0, 2, 6), [3] * 40
    form = {
        "bfloat16": lambda: torch.from_numpy(distances).bfloat16(),
        "float64 tensor": lambda: torch.from_numpy(distances).double(),
        "tensor with a gradient": lambda: torch.from_numpy(distances).requires_grad_(),
    }.get(kind, lambda: distances.astype(kind))
    for use_cython in (True, False):
        found = rank_queries(form(), *labels, use_cython=use_cython)
        assert found.ap.tobytes() == rank_queries(distances, *labels).ap.tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_distance_that_is_not_finite_names_its_row(bad):
    distances = np.ones((400, 3), dtype=np.float32)
    distances[300, 2] = bad
    for matrix in (distances, distances.astype(np.float16), np.asfortranarray(distances)):
        with pytest.raises(ValueError, match=f"query row 300 to gallery image 2 is {bad}; distances must be finite"):
            evaluate_rank(matrix, [1] * 400, [1, 2, 3], [0] * 400, [1, 1, 1])


def test_no_valid_query_explains_the_camera_rule():
    with pytest.raises(NoValidQueryError) as error:
        evaluate_rank(np.ones((3, 2)), [1, 2, 7], [1, 2], [0, 0, 0], [0, 0])
    text = str(error.value)
    assert "persons of 1 queries are absent" in text
    assert "those of 2 are there only under the query's own camera" in text
    assert "another camera id" in text and isinstance(error.value, ValueError)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distmat": np.ones((1, 3))}, r"shape \[1, 3\]"),
        ({"q_pids": [[1]]}, "query person ids"),
        ({"g_camids": [0.5, 1.0]}, "gallery camera ids"),
        ({"g_camids": [1]}, "2 gallery person ids but 1 gallery camera ids"),
        ({"max_rank": 0}, "max_rank"),
    ],
)
def test_bad_arguments_are_named(change, message):
    good = {"distmat": np.ones((1, 2)), "q_pids": [1], "g_pids": [1, 2],
            "q_camids": [0], "g_camids": [1, 1]}  # fmt: skip
    with pytest.raises(ValueError, match=message):
        evaluate_rank(**(good | change))


def test_missing_extension_warns_once_and_falls_back(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "fastreid.retrieval.rank_cylib.rank_cy", None)
    ranking._compiled_counter.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            results = [evaluate_rank(np.ones((1, 1)), [1], [1], [0], [1]) for _ in range(2)]
        assert [record.message for record in caplog.records] == [
            message for message in caplog.messages if "compiled rank evaluation is missing" in message
        ]
        assert len(caplog.records) == 1 and results[0][1].tolist() == [1.0]
    finally:
        ranking._compiled_counter.cache_clear()
