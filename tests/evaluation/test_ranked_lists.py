"""Ranked lists, failed queries and confusions agree with the score they illustrate."""

import logging
from collections import Counter

import numpy as np
import pytest
import torch

from fastreid.evaluation.ranked_lists import Names, _Lists, log_failures, nearest_images, pick_queries, ranked_lists
from fastreid.evaluation.scoring import score, score_distances, score_features
from fastreid.evaluation.scoring_options import Reranking, Scoring
from fastreid.structures import PersonImage
from tests.evaluation.test_roc import protocol

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
    lists = ranked_lists(scored, QUERY, GALLERY, Names({3: "ann"}, {0: "roof"}))
    shown = [image for q in (*lists["queries"], *lists["failed"]) for image in (q["query"], *q["gallery"])]
    assert any(image["person"] == 3 for image in shown)
    assert all(image.get("person_name") == ("ann" if image["person"] == 3 else None) for image in shown)
    assert all(image.get("camera_name") == ("roof" if image["camera"] == 0 else None) for image in shown)


def test_all_failed_queries_are_listed_worst_first(scored):
    lists = ranked_lists(scored, QUERY, GALLERY)
    failed = lists["failed"]
    assert {q["query"]["person"] for q in failed} == set(np.flatnonzero(scored.ranking.first_match_rank > 1))
    assert 3 < len(failed) < 12 and sorted(q["AP"] for q in failed) == [q["AP"] for q in failed]
    for query in failed:
        row = query["query"]["person"]
        *nearest, right = query["gallery"]
        removed = scored.matches.removed_mask(row)
        distances = np.where(removed, np.inf, scored.distances_of(row))
        order = [GALLERY[index].path for index in np.argsort(distances, kind="stable")]
        first = query["first_match_rank"]
        assert [image["rank"] for image in query["gallery"]] == [*range(1, min(3, first - 1) + 1), first]
        assert [image["path"] for image in query["gallery"]] == [order[image["rank"] - 1] for image in query["gallery"]]
        assert right["match"] and not any(image["match"] for image in nearest)
        assert right["distance"] == float(distances[[g.path for g in GALLERY].index(right["path"])])


def test_confusions_count_the_nearest_images_of_failed_queries(scored):
    lists = ranked_lists(scored, QUERY, GALLERY, Names({3: "ann"}))
    pairs = Counter((q["query"]["person"], q["gallery"][0]["person"]) for q in lists["failed"])
    assert {(row["person"], row["taken_for"]): row["times"] for row in lists["confusions"]} == pairs
    for row in lists["confusions"]:
        assert row["queries"] == 1  # of each person
        assert (row.get("person_name") == "ann") == (row["person"] == 3)
        assert (row.get("taken_for_name") == "ann") == (row["taken_for"] == 3)


def test_the_most_frequent_confusion_comes_first():
    """Queries at 0 … 4 on a line, whose nearest images are wrong: ann is twice taken for bob and once for nobody."""
    query = [PersonImage(f"q{n}", person, 0) for n, person in enumerate((0, 0, 0, 0, 1))]
    gallery = [PersonImage(f"g{n}", person, 1) for n, person in enumerate((1, 1, -2, 0, 2, 1))]
    features_q, features_g = (torch.tensor(x).float()[:, None] for x in ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 9]))
    result = score(features_q, features_g, query, gallery, Scoring(metric="euclidean"))
    lists = ranked_lists(result, query, gallery, Names({0: "ann", 1: "bob"}))
    assert lists["confusions"] == [
        {"person": 0, "person_name": "ann", "taken_for": 1, "taken_for_name": "bob", "times": 2, "queries": 4},
        {"person": 1, "person_name": "bob", "taken_for": 2, "times": 1, "queries": 1},
        {"person": 0, "person_name": "ann", "taken_for": -2, "taken_for_name": "unlabelled", "times": 1, "queries": 4},
    ]
    assert lists["views"] == [0]


def test_the_log_names_the_most_frequent_confusions(scored, caplog):
    lists = ranked_lists(scored, QUERY, GALLERY, Names({3: "ann"}))
    with caplog.at_level(logging.INFO):
        log_failures("TOY", lists)
        log_failures("GOOD", lists | {"failed": [], "confusions": []})
    first = lists["confusions"][0]
    count = len(lists["failed"])
    assert f"TOY: the nearest image shows another person for {count} of 12 queries" in caplog.text
    assert f"Person {first['person']} is taken for {first['taken_for']} in 1 of 1" in caplog.text
    assert caplog.text.count("is taken for") == 5 and "GOOD" not in caplog.text


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
    query, gallery = ([PersonImage(f"{side}{n}", 0, 0) for n in range(size)] for side, size in (("q", 40), ("g", 200)))
    found = ranked_lists(result, query, gallery)["failed"]
    failed = np.flatnonzero(result.ranking.first_match_rank > 1).tolist()
    assert sorted(int(each["query"]["path"][1:]) for each in found) == failed != []
    for each in found:
        row = result.distances_of(int(each["query"]["path"][1:]))
        assert all(image["distance"] == float(row[int(image["path"][1:])]) for image in each["gallery"])


def test_without_failures_no_distance_is_computed(monkeypatch):
    result = score_distances(np.array([[0.1, 0.9]]), [0], [0, 1], [0], [1, 1])
    monkeypatch.setattr(result.distances, "block", None)
    assert _Lists(result, QUERY, GALLERY, Names()).failed() == []
