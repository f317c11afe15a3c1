"""Agreement of clusters and people."""

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

from fastreid.labeling.purity import Purity, purity_of


def by_pairs(labels, people):
    """Precision and recall, pair by pair."""
    pairs = [(a, b) for a in range(len(labels)) for b in range(a) if people[a] >= 0 and people[b] >= 0]
    together = {(a, b) for a, b in pairs if labels[a] == labels[b] >= 0}
    same = {(a, b) for a, b in pairs if people[a] == people[b]}
    return len(together & same) / len(together), len(together & same) / len(same)


@pytest.mark.parametrize("seed", range(3))
def test_values_are_those_of_their_definitions(seed):
    draw = np.random.default_rng(seed)
    people = draw.integers(-1, 6, 80)
    labels = np.where(draw.random(80) < 0.6, people, draw.integers(-1, 6, 80))
    found = purity_of(labels, people)
    assert (found.precision, found.recall) == pytest.approx(by_pairs(labels, people))
    kept = (labels >= 0) & (people >= 0)
    assert found.nmi == pytest.approx(normalized_mutual_info_score(people[kept], labels[kept]))


def test_perfect_clusters_and_what_outliers_cost():
    assert purity_of([0, 0, 1, 1], [7, 7, 3, 3]) == Purity(1.0, 1.0, 1.0)
    found = purity_of([0, 0, -1, -1], [7, 7, 3, 3])
    assert (found.precision, found.recall, found.f_score) == (1.0, 0.5, pytest.approx(2 / 3))
    assert purity_of([0, 0, 0, 0], [7, 7, 3, 3]).f_score == pytest.approx(0.5)
    assert purity_of([0, 0], [1, 2]).f_score == 0


def test_nothing_is_said_without_people():
    assert purity_of([0, 1], [-1, -1]) is None
    assert purity_of([0, 0, 1, 1], [2, 2, -1, -1]) == Purity(1.0, 1.0, 1.0)
