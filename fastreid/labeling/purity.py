"""How well clusters agree with people: normalised mutual information, and precision and recall of pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse


@dataclass(frozen=True)
class Purity:
    """Agreement of clusters and people; each value lies in 0 … 1.

    Attributes:
        nmi: mutual information of clusters and people over the mean of their entropies, of the images in clusters.
        precision: share of the pairs of images in one cluster that show one person.
        recall: share of the pairs of images of one person, outliers included, that are in one cluster.
    """

    nmi: float
    precision: float
    recall: float

    @property
    def f_score(self) -> float:
        """Harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def purity_of(labels: ArrayLike, people: ArrayLike) -> Purity | None:
    """Compare clusters with people.

    Args:
        labels: cluster of each image [M]; -1 for outliers, which are in no pair of a cluster.
        people: person of each image [M]; images with a negative one are left out.

    Returns:
        The agreement, or None if no person is known.
    """
    labels, people = np.asarray(labels), np.asarray(people)
    is_known = people >= 0
    if not is_known.any():
        return None
    labels, people = labels[is_known], people[is_known]
    is_kept = labels >= 0
    counts = _contingency(labels[is_kept], people[is_kept])
    together, in_clusters = _pairs(counts.data), _pairs(_sums(counts, 1))
    of_people = _pairs(np.unique(people, return_counts=True)[1])
    return Purity(
        _nmi(counts), together / in_clusters if in_clusters else 1.0, together / of_people if of_people else 1.0
    )


def _contingency(labels: np.ndarray, people: np.ndarray) -> sparse.csr_matrix:
    """Return the number of images of each cluster and person, [clusters, people]."""
    rows, columns = (np.unique(values, return_inverse=True)[1] for values in (labels, people))
    ones = np.ones(len(rows), dtype=np.int64)
    shape = (int(rows.max(initial=-1)) + 1, int(columns.max(initial=-1)) + 1)
    return sparse.coo_matrix((ones, (rows, columns)), shape=shape).tocsr()


def _sums(counts: sparse.csr_matrix, axis: int) -> np.ndarray:
    return np.asarray(counts.sum(axis=axis)).ravel()


def _pairs(sizes: np.ndarray) -> int:
    return int((sizes * (sizes - 1) // 2).sum())


def _nmi(counts: sparse.csr_matrix) -> float:
    """Return the normalised mutual information; 1 if there is nothing to tell apart."""
    entropies = _entropy(_sums(counts, 1)), _entropy(_sums(counts, 0))
    mutual = sum(entropies) - _entropy(counts.data)
    return max(0.0, 2 * mutual / sum(entropies)) if sum(entropies) > 0 else 1.0


def _entropy(sizes: np.ndarray) -> float:
    shares = sizes / max(1, sizes.sum())
    return float(-(shares * np.log(shares)).sum())
