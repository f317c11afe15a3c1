"""Thresholds at rates of false matches are exact and conservative."""

import json
import logging

import numpy as np
import pytest

from fastreid.evaluation.roc import evaluate_roc, roc_curve
from fastreid.evaluation.scoring_options import Expansion, Reranking, Scoring
from fastreid.evaluation.thresholds import log_thresholds, threshold_table, thresholds_of
from fastreid.retrieval.compiled_engine import CompiledDistances
from fastreid.retrieval.distances import MatrixDistances
from fastreid.retrieval.matches import match_labels
from tests.evaluation.test_roc import protocol


def curve_of(right, wrong):
    """Return the curve of one query with these distances of right and wrong pairs."""
    people = [0] * len(right) + [1] * len(wrong)
    matrix = np.array([[*right, *wrong]], dtype=np.float32)
    return roc_curve(MatrixDistances(matrix), match_labels([0], people, [0], [1] * len(people)))


def test_rates_are_those_of_all_pairs():
    query, gallery, *ids = protocol(4, q=60, g=800)
    distances = CompiledDistances(query, gallery)
    found = thresholds_of(roc_curve(distances, match_labels(*ids)), Scoring())
    scores, labels = evaluate_roc(distances.rows(0, 60), *ids)
    right, wrong = scores[labels == 0], scores[labels == 1]
    assert (found["right_pairs"], found["wrong_pairs"]) == (len(right), len(wrong))
    for point in found["points"]:
        threshold = np.float32(point["threshold"])
        assert point["true_match_rate"] == pytest.approx(100 * (right <= threshold).mean())
        assert point["false_matches"] == (wrong <= threshold).sum()
        assert point["false_match_rate"] == pytest.approx(100 * (wrong <= threshold).mean())
    for point, rate in zip(found["points"], (0.1, 1, 5), strict=False):
        assert point["false_match_rate"] <= rate and point["choice"] == f"false matches <= {rate} %"
        nearest_above = right[right > np.float32(point["threshold"])].min()
        assert 100 * (wrong <= nearest_above).mean() > rate  # the next right pair would be too far


def test_points_of_a_small_example():
    """Right pairs at 0.1, 0.3 and 0.7, wrong ones at 0.2 and, 99 of them, from 0.4 to 0.9."""
    found = thresholds_of(curve_of([0.1, 0.3, 0.7], [0.2, *np.linspace(0.4, 0.9, 99)]), Scoring())
    shown = [(point["threshold"], point["true_match_rate"], point["false_matches"]) for point in found["points"]]
    third = 100 / 3
    assert shown[0] == (pytest.approx(0.1), pytest.approx(third), 0)
    assert shown[1] == shown[2] == (pytest.approx(0.3), pytest.approx(2 * third), 1)
    assert shown[3] == shown[4] == shown[1]
    assert [point["note"] for point in found["points"]] == ["needs 1,000 wrong pairs, there are 100", *[""] * 4]


def test_there_may_be_no_threshold():
    found = thresholds_of(curve_of([0.5], [0.1, 0.2, 0.9]), Scoring())
    first = found["points"][0]
    assert first["threshold"] is None and first["true_match_rate"] == first["false_matches"] == 0
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert "none" in threshold_table(found).splitlines()[3]


def test_the_table_is_logged(caplog):
    with caplog.at_level(logging.INFO):
        log_thresholds("TOY", thresholds_of(curve_of([0.1, 0.3], np.linspace(0.2, 0.9, 2000)), Scoring()))
    assert "TOY: thresholds of the distance that was scored (TEST.METRIC), over 2 right and 2,000 wrong" in caplog.text
    (line,) = [line for line in caplog.text.splitlines() if "false matches <= 0.1 %" in line]
    assert line.split()[-8:] == ["0.1000", "│", "50.00", "│", "0.000", "│", "0", "│"]
    assert "needs" not in caplog.text and "balanced accuracy" in caplog.text


def test_they_say_which_distances_they_are_of():
    curve = curve_of([0.5], [0.9])
    found = thresholds_of(curve, Scoring(metric="euclidean", expansion=Expansion(k=2), reranking=Reranking(k1=3)))
    assert found["metric"] == "euclidean" and found["changed_by"] == ["TEST.AQE", "TEST.RERANK"]
    assert thresholds_of(curve, Scoring())["changed_by"] == []
