"""The expected single-shot curve compared with the mean over all draws."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastreid.evaluation import evaluate_rank


def over_all_draws(row, pid, cam, g_pids, g_cams, max_rank):
    """Return the mean match curve of one query over every choice of one image for each person."""
    kept = [g for g in range(len(row)) if g_pids[g] != -1 and (g_pids[g], g_cams[g]) != (pid, cam)]
    people = sorted({g_pids[g] for g in kept})
    curves = []
    for drawn in product(*([g for g in kept if g_pids[g] == person] for person in people)):
        order = sorted(drawn, key=lambda g: (row[g], g))
        rank = [g_pids[g] for g in order].index(pid)
        curves.append([rank <= k for k in range(max_rank)])
    return np.mean(curves, axis=0)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([3, 1000]))
def test_equals_the_mean_over_all_draws(seed, levels):
    rng = np.random.default_rng(seed)
    distances = rng.integers(0, levels, (3, 9)) / levels
    q_pids, g_pids = rng.integers(0, 3, 3), rng.integers(-1, 4, 9)
    q_cams, g_cams = rng.integers(0, 2, 3), rng.integers(0, 2, 9)
    valid = [q for q in range(3) if any((g_pids == q_pids[q]) & (g_cams != q_cams[q]))]
    if not valid:
        return
    cmc, ap, _ = evaluate_rank(distances, q_pids, g_pids, q_cams, g_cams, 4, use_metric_cuhk03=True)
    expected = np.mean([over_all_draws(distances[q], q_pids[q], q_cams[q], g_pids, g_cams, 4) for q in valid], axis=0)
    np.testing.assert_allclose(cmc, expected, atol=1e-12)
    assert len(ap) == len(valid)


def test_one_image_a_person_is_the_ordinary_curve():
    rng = np.random.default_rng(0)
    data = rng.random((20, 20)), np.arange(20), rng.permutation(20), np.zeros(20, int), np.ones(20, int)
    single, ordinary = (evaluate_rank(*data, 15, use_metric_cuhk03=one)[0] for one in (True, False))
    np.testing.assert_allclose(single, ordinary, atol=1e-12)


def test_more_people_in_front_than_ranks_asked_for():
    distances = np.array([[0.1, 0.2, 0.3, 0.9]])
    cmc, *_ = evaluate_rank(distances, [0], [1, 2, 3, 0], [0], [1, 1, 1, 1], 2, use_metric_cuhk03=True)
    assert cmc.tolist() == [0, 0]
    assert pytest.approx(cmc.max()) == 0
