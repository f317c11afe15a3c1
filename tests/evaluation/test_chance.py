"""Chance levels against shuffling many times, and against every order where that is possible."""

from itertools import combinations

import numpy as np
import pytest

from fastreid.evaluation.chance import chance_level, expected_ap, expected_inp, expected_rank1
from fastreid.retrieval.ranking import rank_queries


def all_orders(num_positives, num_gallery):
    """Exact means over every placement of the positives."""
    placed = [np.array(p) for p in combinations(range(1, num_gallery + 1), num_positives)]
    nth = np.arange(1, num_positives + 1)
    return (
        np.mean([p[0] == 1 for p in placed]),
        np.mean([(nth / p).mean() for p in placed]),
        np.mean([num_positives / p[-1] for p in placed]),
    )


@pytest.mark.parametrize(("p", "n"), [(1, 1), (1, 2), (2, 2), (3, 7), (1, 9), (5, 9), (8, 9)])
def test_closed_forms_equal_the_mean_over_all_orders(p, n):
    got = expected_rank1(p, n), expected_ap(p, n), expected_inp(p, n)
    assert got == pytest.approx(all_orders(p, n), abs=1e-12)


def test_level_of_a_protocol_equals_simulation():
    rng = np.random.default_rng(0)
    repeats = 4000
    labels = [1, 2, 2, 9], [1] * 2 + [2] * 9 + [3] * 60, [0, 0, 1, 0], [1] * 6 + [0] * 65
    q_pids, q_cams = np.tile(labels[0], repeats), np.tile(labels[2], repeats)
    ranking = rank_queries(rng.random((len(q_pids), 71), dtype=np.float32), q_pids, labels[1], q_cams, labels[3])
    level = chance_level(ranking)
    assert level["Rank-1"] == pytest.approx(100 * ranking.cmc(1)[0], abs=0.5)
    assert level["mAP"] == pytest.approx(100 * ranking.mean_ap, abs=0.3)
    assert level["mINP"] == pytest.approx(100 * ranking.mean_inp, abs=0.3)


def test_large_galleries_stay_finite():
    assert 0 < expected_inp(20, 50_712) < expected_ap(20, 50_712) < 1e-3
    assert expected_inp(50_000, 50_712) == pytest.approx(50_000 / 50_712, rel=1e-3)


@pytest.mark.parametrize("function", [expected_rank1, expected_ap, expected_inp])
@pytest.mark.parametrize(("p", "n"), [(0, 3), (4, 3)])
def test_impossible_sizes_are_refused(function, p, n):
    with pytest.raises(ValueError, match="positives"):
        function(p, n)
