"""Ranking: what became of every query of one protocol, before any average is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True, slots=True)
class Ranking:
    """Where each query's right matches came out; all arrays are [Q], one entry a query.

    A query without a valid match (`valid` False) has NaN in `ap` and `inp` and 0 in
    `first_match_rank`; averages run over the valid ones only.
    """

    ap: np.ndarray  # float64, average precision, 0..1
    inp: np.ndarray  # float64, inverse negative penalty = num_positives / rank of the last match
    first_match_rank: np.ndarray  # int64, 1 = the nearest valid gallery image is right
    num_positives: np.ndarray  # int64, valid gallery images of the query's person
    num_valid_gallery: np.ndarray  # int64, gallery images left after removal
    ap_optimistic: np.ndarray  # float64, AP if right images came first among equal distances
    ap_pessimistic: np.ndarray  # float64, AP if they came last

    @property
    def valid(self) -> np.ndarray:
        """Bool [Q]: queries whose person is in the gallery under another camera."""
        return self.num_positives > 0

    @property
    def num_valid_queries(self) -> int:
        return int(self.valid.sum())

    @property
    def mean_ap(self) -> float:
        """mAP, 0..1."""
        return float(self.ap[self.valid].mean())

    @property
    def mean_ap_bounds(self) -> tuple[float, float]:
        """Least and greatest mAP that another rule for equal distances could give, 0..1."""
        return float(self.ap_pessimistic[self.valid].mean()), float(self.ap_optimistic[self.valid].mean())

    @property
    def mean_inp(self) -> float:
        """mINP, 0..1 (Ye et al., Deep Learning for Person Re-identification, 2021)."""
        return float(self.inp[self.valid].mean())

    def of_queries(self, first: int, stop: int) -> Ranking:
        """The ranking of queries `first` … `stop` - 1."""
        return Ranking(*(getattr(self, field.name)[first:stop] for field in fields(self)))

    def of_all(self, gather: Callable[[np.ndarray], np.ndarray]) -> Ranking:
        """The ranking of the queries of all processes, each of which has a part of them.

        Args:
            gather: array [N, …] of each process -> those of all, in the order of the queries.
        """
        return Ranking(*(gather(getattr(self, field.name)) for field in fields(self)))

    def cmc(self, max_rank: int) -> np.ndarray:
        """Cumulative match curve, float64 [max_rank]: share of valid queries matched by rank k.

        Never falls, also when fewer than `max_rank` gallery images are left to a query.
        """
        first = self.first_match_rank[self.valid]
        hits = np.bincount(np.minimum(first, max_rank + 1), minlength=max_rank + 2)
        return hits[1 : max_rank + 1].cumsum() / len(first)
