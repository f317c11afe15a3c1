"""The ROC curve compared with the list of all pairs and with scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from fastreid.evaluation.roc import evaluate_roc, roc_curve
from fastreid.retrieval import histogram
from fastreid.retrieval.compiled_engine import CompiledDistances
from fastreid.retrieval.distances import MatrixDistances
from fastreid.retrieval.histogram import PairCounter
from fastreid.retrieval.matches import match_labels
from fastreid.retrieval.torch_engine import TorchDistances


def protocol(seed, q=12, g=60, people=5, cameras=3, dim=6):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((people, dim))
    q_pids, g_pids = rng.integers(0, people, q), rng.integers(-1, people, g)
    features = [centres[pids] + 0.8 * rng.standard_normal((len(pids), dim)) for pids in (q_pids, g_pids)]
    cams = [rng.integers(0, cameras, n) for n in (q, g)]
    return *(rows.astype(np.float32) for rows in features), q_pids, g_pids, *cams


@settings(deadline=None, max_examples=80)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["cosine", "euclidean"]),
    st.sampled_from([CompiledDistances, TorchDistances]),
    st.booleans(),
)
def test_curve_is_that_of_all_pairs(seed, metric, engine, rounded):
    query, gallery, *ids = protocol(seed)
    matches = match_labels(*ids)
    if not matches.num_positives.any():
        return
    distances = engine(query, gallery, metric=metric, memory_budget=0.01)
    matrix = distances.rows(0, len(query))
    if rounded:  # many equal distances
        matrix = np.round(matrix, 1)
        distances = MatrixDistances(matrix)
    curve = roc_curve(distances, matches)
    scores, labels = evaluate_roc(matrix, *ids)
    right, wrong = scores[labels == 0], scores[labels == 1]
    assert (curve.num_right, curve.num_wrong) == (len(right), len(wrong))
    np.testing.assert_array_equal(curve.true_positives, [(right <= t).sum() for t in curve.thresholds])
    np.testing.assert_array_equal(curve.false_positives, [(wrong <= t).sum() for t in curve.thresholds])
    assert curve.right_histogram.sum() == len(right) and curve.wrong_histogram.sum() == len(wrong)
    fpr, tpr, _ = metrics.roc_curve(1 - labels, -scores, drop_intermediate=False)
    for rate in (0.0, 0.01, 0.1, 0.5, 1.0):
        assert curve.tpr_at(rate)[0] == pytest.approx(tpr[fpr <= rate].max())
    accepting_none = 0.5
    assert max(curve.best_accuracy[0], accepting_none) == pytest.approx((tpr + 1 - fpr).max() / 2)
    assert curve.auc == pytest.approx(metrics.roc_auc_score(1 - labels, -scores))
    np.testing.assert_array_equal(curve.wrong_ties, [(wrong == t).sum() for t in curve.thresholds])
    gaps = (1 - tpr) - fpr
    after = int(np.argmax(gaps <= 0))
    share = gaps[after - 1] / (gaps[after - 1] - gaps[after])
    assert curve.equal_error_rate == pytest.approx(fpr[after - 1] + share * (fpr[after] - fpr[after - 1]))


def test_a_threshold_has_the_rate_of_its_point():
    query, gallery, *ids = protocol(4, q=40, g=400)
    distances = CompiledDistances(query, gallery)
    curve = roc_curve(distances, match_labels(*ids))
    scores, labels = evaluate_roc(distances.rows(0, 40), *ids)
    rate, threshold = curve.tpr_at(0.05)
    assert (scores[labels == 0] <= threshold).mean() == rate
    assert (scores[labels == 1] <= threshold).mean() <= 0.05
    figures = curve.figures()
    assert list(figures) == ["TPR@FPR=1e-4", "TPR@FPR=1e-3", "TPR@FPR=1e-2", "AUC", "EER", "accuracy", "threshold"]
    assert figures["TPR@FPR=1e-2"] == pytest.approx(100 * curve.tpr_at(0.01)[0])


def test_figures_are_percentages_of_the_curve():
    """Right pairs at 0.1, 0.3 and 0.7, wrong ones at 0.2, 0.4, 0.5, 0.6, 0.8 and 0.9."""
    matrix = np.array([[0.1, 0.3, 0.7, 0.2, 0.4, 0.5, 0.6, 0.8, 0.9]], dtype=np.float32)
    curve = roc_curve(MatrixDistances(matrix), match_labels([0], [0, 0, 0, 1, 1, 2, 2, 3, 3], [0], [1] * 9))
    assert curve.figures() == pytest.approx({
        "TPR@FPR=1e-4": 100 / 3, "TPR@FPR=1e-3": 100 / 3, "TPR@FPR=1e-2": 100 / 3,
        "AUC": 100 * (6 + 5 + 2) / 18,  # wrong pairs that are farther than each right one
        "EER": 100 / 3,  # from 0.3 on: one of three is rejected, then, up to 0.4, two of six are accepted
        "accuracy": 100 * (2 / 3 + 5 / 6) / 2, "threshold": 0.3,
    })  # fmt: skip


def test_perfect_descriptors_make_no_error():
    matrix = np.array([[0.1, 0.9, 0.8], [0.9, 0.2, 0.7]])
    curve = roc_curve(MatrixDistances(matrix), match_labels([0, 1], [0, 1, 2], [0, 0], [1, 1, 1]))
    assert (curve.auc, curve.equal_error_rate, curve.best_accuracy[0]) == (1, 0, 1)
    assert curve.best_accuracy[1] == pytest.approx(0.2)
    assert curve.tpr_at(0) == (1, pytest.approx(0.2))


def test_equal_error_lies_between_right_pairs_too():
    matrix = np.array([[0.1, 0.3, 0.4, 0.5, 0.9]])
    curve = roc_curve(MatrixDistances(matrix), match_labels([0], [0, 1, 1, 1, 0], [0], [1] * 5))
    assert (curve.equal_error_rate, curve.auc) == (0.5, 0.5)
    alike = roc_curve(MatrixDistances(np.ones((1, 4))), match_labels([0], [0, 0, 1, 1], [0], [1] * 4))
    assert (alike.equal_error_rate, alike.auc) == (0.5, 0.5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_distances_that_are_not_finite_are_named(bad):
    matrix = np.random.default_rng(0).random((3, 9)).astype(np.float32)
    ids = [0, 1, 2], [0, 1, 2] * 3, [0] * 3, [1] * 9
    for column in (2, 5):  # a right one and a wrong one
        spoilt = matrix.copy()
        spoilt[2, column] = bad
        said = f"query row 2 to gallery image {column} is"
        with pytest.raises(ValueError, match=said):
            roc_curve(MatrixDistances(spoilt), match_labels(*ids))
        with pytest.raises(ValueError, match=said):
            evaluate_roc(spoilt, *ids)
    counter = PairCounter(np.array([0.5]), (0.0, 1.0))
    counter.add(np.array([np.nan, 0.25, np.inf, -np.inf], np.float32))  # counted in some bin, not outside of the array
    assert counter.read()[0].sum() == 4


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"shape \[1, 3\] but the ids speak of 1 queries and 2"):
        evaluate_roc(np.ones((1, 3)), [0], [0, 1], [0], [1, 1])


def test_equal_and_large_distances_have_bins():
    curve = roc_curve(MatrixDistances(np.full((2, 4), 1e9)), match_labels([0, 1], [0, 1, 2, 3], [0, 0], [1] * 4))
    assert curve.right_histogram.sum() == 2 and curve.wrong_histogram.sum() == 6


def test_no_right_or_no_wrong_pair_raises():
    with pytest.raises(ValueError, match="needs right pairs"):
        roc_curve(MatrixDistances(np.ones((1, 1))), match_labels([0], [1], [0], [1]))
    with pytest.raises(ValueError, match="needs wrong pairs"):
        roc_curve(MatrixDistances(np.ones((1, 1))), match_labels([0], [0], [0], [1]))


@given(st.integers(0, 10**6), st.integers(1, 4))
@settings(deadline=None, max_examples=30)
def test_torch_counts_as_the_compiled_counter(seed, num_threads):
    rng = np.random.default_rng(seed)
    values = np.round(rng.normal(1, 0.5, 5000), 2).astype(np.float32)
    thresholds = np.unique(np.round(rng.normal(1, 0.5, 50), 2)).astype(np.float32)
    compiled = PairCounter(thresholds, (0.0, 2.0), num_bins=64, num_threads=num_threads)
    compiled.add(values)
    compiled.add(values[:100], sign=-1)
    other = histogram._TorchHistogram(thresholds, 0.0, 2.0, 64, "cpu")
    other.add(values)
    other.add(values[:100], sign=-1)
    np.testing.assert_array_equal(compiled.read()[1], other.read()[1])
    np.testing.assert_array_equal(compiled.read()[1], [(values[100:] <= t).sum() for t in thresholds])
    np.testing.assert_array_equal(compiled.read()[2], other.read()[2])
    assert compiled.read()[0].sum() == other.read()[0].sum() == 4900
