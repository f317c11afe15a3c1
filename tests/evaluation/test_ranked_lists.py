"""Ranked lists agree with the score they illustrate."""

import numpy as np
import pytest
import torch

from fastreid.evaluation.ranked_lists import pick_queries, ranked_lists
from fastreid.evaluation.scoring import score
from fastreid.structures import PersonImage

QUERY = [PersonImage(f"q{p}", p, 0, 0) for p in range(12)]
GALLERY = [PersonImage(f"g{p}_{c}", p, c, int(c > 1)) for p in range(-1, 12) for c in range(4)]


@pytest.fixture
def scored():
    torch.manual_seed(0)
    people = torch.randn(13, 6)
    features_q = people[[i.person for i in QUERY]] + 0.7 * torch.randn(len(QUERY), 6)
    features_g = people[[i.person for i in GALLERY]] + 0.7 * torch.randn(len(GALLERY), 6)
    return score(features_q, features_g, QUERY, GALLERY)


def test_lists_are_the_ranking_that_was_scored(scored):
    lists = ranked_lists(scored, QUERY, GALLERY)
    assert [q["kind"] for q in lists["queries"]] == ["best"] * 3 + ["median"] * 3 + ["worst"] * 3
    assert len({q["query"]["path"] for q in lists["queries"]}) == 9
    for shown in lists["queries"]:
        row = shown["query"]["person"]
        assert shown["AP"] == 100 * scored.ranking.ap[row]
        assert lists["ap_by_query"][f"q{row}"] == shown["AP"]
        hits = [entry["rank"] for entry in shown["gallery"] if entry["match"]]
        first = shown["first_match_rank"]
        assert hits[0] == first if first <= 10 else not hits
        assert not any(e["person"] == -1 for e in shown["gallery"])  # junk
        assert not any(e["person"] == row and e["camera"] == 0 for e in shown["gallery"])
        distances = [entry["distance"] for entry in shown["gallery"]]
        assert distances == sorted(distances) and len(distances) == 10
        index = [g.path for g in GALLERY].index(shown["gallery"][0]["path"])
        assert shown["gallery"][0]["distance"] == float(scored.distances_of(row)[index])


def test_best_median_worst():
    ap = np.linspace(1, 0, 21)
    ap[4] = np.nan  # not scored: never shown
    assert pick_queries(ap) == [
        *(("best", row) for row in (0, 1, 2)),
        *(("median", row) for row in (10, 11, 12)),
        *(("worst", row) for row in (20, 19, 18)),
    ]


@pytest.mark.parametrize("count", range(1, 12))
def test_few_or_equal_queries_are_still_distinct(count):
    rows = [row for _, row in pick_queries(np.full(count, 0.5))]
    assert len(rows) == len(set(rows)) == min(count, 9)


def test_names_stand_beside_the_ids_that_have_one(scored):
    lists = ranked_lists(scored, QUERY, GALLERY, {3: "ann"}, {0: "roof"})
    shown = [image for q in lists["queries"] for image in (q["query"], *q["gallery"])]
    assert any(image["person"] == 3 for image in shown)
    assert all(image.get("person_name") == ("ann" if image["person"] == 3 else None) for image in shown)
    assert all(image.get("camera_name") == ("roof" if image["camera"] == 0 else None) for image in shown)
