"""Verification figures (ROC, AUC, EER) over all pairs of a query and a gallery image, without a list of pairs.

Right pairs (of the same person) are few. The true-positive rate changes only at their distances, so the number of wrong
pairs at or below each of these distances gives the exact curve.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fastreid.retrieval.descriptors import matrix_on_cpu
from fastreid.retrieval.distances import Distances
from fastreid.retrieval.histogram import PairCounter
from fastreid.retrieval.matches import Matches, match_labels
from fastreid.retrieval.ranking import check_distances
from fastreid.utils.counts import thread_count

REPORTED_RATES = (1e-4, 1e-3, 1e-2)


def _rate_name(rate: float) -> str:
    return f"TPR@FPR={rate:.0e}".replace("e-0", "e-")


# Names of the figures, in the order in which they are printed.
ROC_FIGURES = (*map(_rate_name, REPORTED_RATES), "AUC", "EER", "accuracy", "threshold")


@dataclass(frozen=True)
class RocCurve:
    """ROC curve with one point for each distance of a right pair; pairs at or below a threshold are accepted.

    Attributes:
        thresholds: float32 [T], ascending.
        true_positives: accepted right pairs, int64 [T].
        false_positives: accepted wrong pairs, int64 [T].
        wrong_ties: wrong pairs whose distance equals the threshold, int64 [T].
        num_right: number of right pairs.
        num_wrong: number of wrong pairs.
        edges: bins of the two histograms, float64 [B + 1].
        right_histogram: right pairs by distance, int64 [B].
        wrong_histogram: wrong pairs by distance, int64 [B].
    """

    thresholds: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray
    wrong_ties: np.ndarray
    num_right: int
    num_wrong: int
    edges: np.ndarray
    right_histogram: np.ndarray
    wrong_histogram: np.ndarray

    @property
    def tpr(self) -> np.ndarray:
        """True-positive rate, 0..1."""
        return self.true_positives / self.num_right

    @property
    def fpr(self) -> np.ndarray:
        """False-positive rate, 0..1."""
        return self.false_positives / self.num_wrong

    @property
    def auc(self) -> float:
        """Probability that a right pair is nearer than a wrong one; equal distances count half."""
        steps = np.diff(self.true_positives, prepend=0)
        nearer = (self.false_positives - self.wrong_ties / 2) / self.num_wrong
        return float((steps * (1 - nearer)).sum() / self.num_right)

    def tpr_at(self, fpr: float) -> tuple[float, float]:
        """Return the greatest true-positive rate at a false-positive rate of at most `fpr`, and its threshold.

        The threshold is -inf if no pair may be accepted.

        Raises:
            ValueError: `fpr` is outside of 0 to 1.
        """
        point = self.point_at(fpr)
        return (0.0, -np.inf) if point is None else (float(self.tpr[point]), float(self.thresholds[point]))

    def point_at(self, fpr: float) -> int | None:
        """Return the number of the last point whose false-positive rate is at most `fpr`; None if there is none.

        Raises:
            ValueError: `fpr` is outside of 0 to 1.
        """
        if not 0 <= fpr <= 1:
            raise ValueError(f"a false-positive rate lies in 0 … 1, got {fpr}")
        allowed = int(np.searchsorted(self.fpr, fpr, side="right"))
        return allowed - 1 if allowed else None

    @property
    def best_point(self) -> int:
        """Number of the point with the greatest balanced accuracy (TPR + TNR) / 2."""
        return int(np.argmax(self.tpr + 1 - self.fpr))

    @property
    def best_accuracy(self) -> tuple[float, float]:
        """Greatest balanced accuracy (TPR + TNR) / 2, and its threshold."""
        best = self.best_point
        return float((self.tpr[best] + 1 - self.fpr[best]) / 2), float(self.thresholds[best])

    @property
    def equal_error_rate(self) -> float:
        """Rate at which the step curve of false rejections over false acceptances crosses the diagonal."""
        below = (self.false_positives - self.wrong_ties) / self.num_wrong
        missed_before = 1 - np.append(0.0, self.tpr[:-1])
        # The step of each threshold: from just below it, where its right pairs are rejected, to the threshold itself.
        accepted = np.concatenate([[0.0], np.stack([below, self.fpr], axis=1).ravel(), [1.0]])
        rejected = np.concatenate([[1.0], np.stack([missed_before, 1 - self.tpr], axis=1).ravel(), [0.0]])
        after = int(np.argmax(rejected <= accepted))
        gaps = rejected[after - 1 : after + 1] - accepted[after - 1 : after + 1]
        share = gaps[0] / (gaps[0] - gaps[1])
        return float(accepted[after - 1] + share * (accepted[after] - accepted[after - 1]))

    def figures(self) -> dict[str, float]:
        """Return TPR@FPR=1e-4, 1e-3 and 1e-2, AUC, EER and accuracy in percent, and the accuracy's threshold."""
        figures = {_rate_name(rate): 100 * self.tpr_at(rate)[0] for rate in REPORTED_RATES}
        accuracy, threshold = self.best_accuracy
        return figures | {
            "AUC": 100 * self.auc,
            "EER": 100 * self.equal_error_rate,
            "accuracy": 100 * accuracy,
            "threshold": threshold,
        }


@dataclass(frozen=True)
class Curves:
    """Curves of one protocol.

    Attributes:
        cmc: cumulative match curve [max_rank], 0..1.
        roc: ROC curve of the same distances.
    """

    cmc: np.ndarray
    roc: RocCurve


def roc_curve(distances: Distances, matches: Matches, *, num_threads: int = 0) -> RocCurve:
    """Count all pairs that remain after removal (same person under the same camera; junk).

    Distances are compared in float32, which all engines compute; a float64 matrix is rounded to it.

    Args:
        distances: distances of Q queries and G gallery images.
        matches: matches of the queries.
        num_threads: 0 for torch's number.

    Raises:
        ValueError: a distance is not finite, no right or no wrong pair, an invalid number of threads.
    """
    num_threads = thread_count(num_threads)
    right, removed = distances.same_person(matches)
    if not len(right):
        raise ValueError(
            "a ROC curve needs right pairs, and no query has its person in the gallery under another camera"
        )
    thresholds, threshold_of = np.unique(right.astype(np.float32), return_inverse=True)
    counter = PairCounter(thresholds, distances.bounds, num_threads=num_threads)
    distances.count_pairs(counter, matches)
    for same_person in (right, removed):
        counter.add(same_person, sign=-1)
    wrong_bins, false_positives, wrong_ties = counter.read()
    right_counter = PairCounter(np.zeros(0, np.float32), distances.bounds)
    right_counter.add(right)
    num_wrong = int(wrong_bins.sum())
    if not num_wrong:
        raise ValueError("a ROC curve needs wrong pairs, and all gallery images are of the queries' own people")
    return RocCurve(
        thresholds=thresholds,
        true_positives=np.bincount(threshold_of).cumsum(),
        false_positives=false_positives,
        wrong_ties=wrong_ties,
        num_right=len(right),
        num_wrong=num_wrong,
        edges=counter.edges,
        right_histogram=right_counter.read()[0],
        wrong_histogram=wrong_bins,
    )


def evaluate_roc(
    distmat: ArrayLike,
    q_pids: ArrayLike,
    g_pids: ArrayLike,
    q_camids: ArrayLike,
    g_camids: ArrayLike,
    use_cython: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Return distance and label (0 right, 1 wrong) of every pair, right ones first; fast-reid's function of this name.

    It lists all pairs, so it is for few images; `roc_curve` does not. Arguments as `evaluate_rank`; this function has
    no compiled code, so `use_cython` True permits what False forbids, and the pairs are the same.

    Raises:
        ValueError: wrong shapes, or a distance that is not finite.
    """
    matches = match_labels(q_pids, g_pids, q_camids, g_camids)
    distances = matrix_on_cpu(distmat)
    check_distances(distances, matches)
    wrong = np.ones(distances.shape, dtype=bool)
    wrong[:, matches.junk] = False
    query = np.repeat(np.arange(len(distances)), matches.num_positives)
    wrong[query, matches.positives] = False
    wrong[np.repeat(np.arange(len(distances)), np.diff(matches.removed_starts)), matches.removed] = False
    right = distances[query, matches.positives]
    scores = np.concatenate([right, distances[wrong]])
    return scores, np.concatenate([np.zeros(len(right)), np.ones(len(scores) - len(right))])
