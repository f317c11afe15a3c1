"""Ranking: the scores of every query of one protocol, before averaging."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True, slots=True)
class Ranking:
    """Scores of Q queries; all arrays are [Q].

    A query without a valid match (`valid` False) has NaN in `ap` and `inp` and 0 in `first_match_rank`; averages are
    over the valid ones only.

    Attributes:
        ap: average precision, float64, 0..1.
        inp: inverse negative penalty = num_positives / rank of the last match, float64.
        first_match_rank: int64; 1 if the nearest valid gallery image is a positive.
        num_positives: valid gallery images of the query's person, int64.
        num_valid_gallery: gallery images left after removal, int64.
        ap_optimistic: AP if positives came first among equal distances, float64.
        ap_pessimistic: AP if they came last, float64.
    """

    ap: np.ndarray
    inp: np.ndarray
    first_match_rank: np.ndarray
    num_positives: np.ndarray
    num_valid_gallery: np.ndarray
    ap_optimistic: np.ndarray
    ap_pessimistic: np.ndarray

    @property
    def valid(self) -> np.ndarray:
        """Queries whose person is in the gallery under another camera, bool [Q]."""
        return self.num_positives > 0

    @property
    def num_valid_queries(self) -> int:
        """Number of queries that are scored."""
        return int(self.valid.sum())

    @property
    def mean_ap(self) -> float:
        """mAP, 0..1."""
        return float(self.ap[self.valid].mean())

    @property
    def mean_ap_bounds(self) -> tuple[float, float]:
        """Least and greatest mAP over all orders of equal distances, 0..1."""
        return float(self.ap_pessimistic[self.valid].mean()), float(self.ap_optimistic[self.valid].mean())

    @property
    def mean_inp(self) -> float:
        """mINP, 0..1 (Ye et al., Deep Learning for Person Re-identification, 2021)."""
        return float(self.inp[self.valid].mean())

    def of_queries(self, first: int, stop: int) -> Ranking:
        """Return the ranking of queries `first` to `stop` - 1."""
        return Ranking(*(getattr(self, field.name)[first:stop] for field in fields(self)))

    def of_all(self, gather: Callable[[np.ndarray], np.ndarray]) -> Ranking:
        """Return the ranking of the queries of all processes, each of which has a part of them.

        Args:
            gather: maps an array [N, …] of each process to the array of all, in the order of the queries.
        """
        return Ranking(*(gather(getattr(self, field.name)) for field in fields(self)))

    def cmc(self, max_rank: int) -> np.ndarray:
        """Return the cumulative match curve, float64 [max_rank]: the share of valid queries matched by rank k.

        It never falls, even if fewer than `max_rank` gallery images are left to a query.
        """
        first = self.first_match_rank[self.valid]
        hits = np.bincount(np.minimum(first, max_rank + 1), minlength=max_rank + 2)
        return hits[1 : max_rank + 1].cumsum() / len(first)
