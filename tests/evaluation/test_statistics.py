"""Chance levels compared with all orders and simulation, and bootstrap intervals with their theory."""

from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest

from fastreid.evaluation.statistics import bootstrap_intervals, chance_level, expected_ap, expected_inp, expected_rank1
from fastreid.retrieval.ranking import rank_queries


def all_orders(num_positives, num_gallery):
    """Return the exact means over every placement of the positives."""
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


def ranking(ap, valid=None):
    ap = np.asarray(ap, dtype=float)
    valid = np.ones(len(ap), dtype=bool) if valid is None else np.asarray(valid)
    return SimpleNamespace(ap=ap, inp=ap / 2, first_match_rank=np.where(ap > 0.5, 1, 3), valid=valid)


def test_a_mean_lies_within_two_standard_errors():
    ap = np.random.default_rng(0).uniform(0, 1, 400)
    low, high = bootstrap_intervals(ranking(ap), num_samples=4000)["mAP"]
    error = 100 * ap.std() / np.sqrt(len(ap))
    assert low == pytest.approx(100 * ap.mean() - 1.96 * error, abs=0.25 * error)
    assert high == pytest.approx(100 * ap.mean() + 1.96 * error, abs=0.25 * error)


def test_a_narrower_level_gives_a_narrower_interval_and_the_seed_decides_the_bits():
    data = ranking(np.linspace(0, 1, 50))
    wide, narrow = bootstrap_intervals(data), bootstrap_intervals(data, level=0.5)
    assert all(wide[n][0] < narrow[n][0] < narrow[n][1] < wide[n][1] for n in ("Rank-1", "mAP", "mINP"))
    assert wide == bootstrap_intervals(data) != bootstrap_intervals(data, seed=1)


def test_queries_that_are_not_valid_do_not_count_and_one_alone_does_not_vary():
    data = ranking([0.25, np.nan], valid=[True, False])
    assert bootstrap_intervals(data) == {"Rank-1": (0.0, 0.0), "mAP": (25.0, 25.0), "mINP": (12.5, 12.5)}


def test_a_thousand_samples_are_drawn_by_default():
    data = ranking(list(np.random.default_rng(0).random(200)))  # so many that every sample has another mean
    assert bootstrap_intervals(data) == bootstrap_intervals(data, level=0.95, num_samples=1000, seed=0)
    assert bootstrap_intervals(data) != bootstrap_intervals(data, num_samples=1001)


def test_one_sample_is_an_interval_of_one_value():
    low, high = bootstrap_intervals(ranking([0.2, 0.4, 0.9]), num_samples=1)["mAP"]
    assert low == high


@pytest.mark.parametrize("options", [{"level": 0}, {"level": 1}, {"num_samples": 0}])
def test_wrong_arguments(options):
    with pytest.raises(ValueError, match="level must lie between"):
        bootstrap_intervals(ranking([0.5]), **options)
