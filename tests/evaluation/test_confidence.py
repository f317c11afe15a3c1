"""Bootstrap intervals against what theory says of them."""

from types import SimpleNamespace

import numpy as np
import pytest

from fastreid.evaluation.confidence import bootstrap_intervals


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


@pytest.mark.parametrize("options", [{"level": 0}, {"level": 1}, {"num_samples": 0}])
def test_wrong_arguments(options):
    with pytest.raises(ValueError, match="level must lie between"):
        bootstrap_intervals(ranking([0.5]), **options)
