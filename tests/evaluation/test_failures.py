"""Failed queries are found in blocks, whatever the engine."""

import numpy as np
import pytest

from fastreid.evaluation.failures import failures, nearest_images
from fastreid.evaluation.scoring import score_distances, score_features
from fastreid.evaluation.scoring_options import Reranking, Scoring
from tests.evaluation.test_roc import protocol


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_nearest_images_are_those_of_a_stable_sort(count):
    rng = np.random.default_rng(count)
    for _ in range(50):
        distances = rng.integers(0, 4, 9).astype(np.float32)  # many are equal
        removed = rng.random(9) < 0.2
        kept = np.flatnonzero(~removed)
        expected = kept[np.argsort(distances[kept], kind="stable")][:count]
        assert nearest_images(distances, removed, count) == expected.tolist()


@pytest.mark.parametrize(
    "options",
    [{"engine": "compiled"}, {"engine": "torch"}, {"reranking": Reranking(k1=4, k2=2)}, {"metric": "euclidean"}],
    ids=str,
)
def test_every_block_is_read(options):
    result = score_features(*protocol(3, q=40, g=200), Scoring(**options, memory_budget=0.005))
    assert result.distances.rows_at_once < 20
    found = failures(result)
    assert {each.query for each in found} == set(np.flatnonzero(result.ranking.first_match_rank > 1)) != set()
    for each in found:
        row = result.distances_of(each.query)
        assert each.distances == {index: float(row[index]) for _, index in each.images}
        assert each.images[-1][0] == result.ranking.first_match_rank[each.query]


def test_without_failures_no_distance_is_computed(monkeypatch):
    result = score_distances(np.array([[0.1, 0.9]]), [0], [0, 1], [0], [1, 1])
    monkeypatch.setattr(result.distances, "block", None)
    assert failures(result) == []
