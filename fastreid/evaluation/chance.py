"""What a random ranking would score: the floor every figure should be read against."""

from __future__ import annotations

from functools import cache

import numpy as np

from fastreid.structures.ranking import Ranking


def expected_rank1(num_positives: int, num_gallery: int) -> float:
    """E[Rank-1] = P / N: the first of N shuffled images is one of the P right ones."""
    _check(num_positives, num_gallery)
    return num_positives / num_gallery


def expected_ap(num_positives: int, num_gallery: int) -> float:
    """E[AP] = (H + (P - 1)(N - H) / (N - 1)) / N, with H = 1 + 1/2 + ... + 1/N; 1 if N = 1.

    Place k holds a positive with probability P / N, and then (P - 1)(k - 1) / (N - 1) of the
    others are expected before it; AP sums the precisions at those places and divides by P.
    """
    _check(num_positives, num_gallery)
    if num_gallery == 1:
        return 1.0
    harmonic = _harmonic(num_gallery)
    others = (num_positives - 1) * (num_gallery - harmonic) / (num_gallery - 1)
    return (harmonic + others) / num_gallery


def expected_inp(num_positives: int, num_gallery: int) -> float:
    """E[INP] = sum over r = P..N of P / r * Pr(last = r), Pr(last = r) = C(r-1, P-1) / C(N, P).

    The probabilities are made by their ratio, Pr(r - 1) / Pr(r) = (r - P) / (r - 1), from
    Pr(N) = P / N downwards: no large binomial, no cancellation.
    """
    _check(num_positives, num_gallery)
    rank = np.arange(num_gallery, num_positives, -1, dtype=np.float64)  # N, N - 1, ..., P + 1
    ratios = (rank - num_positives) / (rank - 1)
    probability = num_positives / num_gallery * np.concatenate([[1.0], ratios]).cumprod()
    return float((probability * num_positives / np.append(rank, num_positives)).sum())


def chance_level(ranking: Ranking) -> dict[str, float]:
    """Expected Rank-1, mAP and mINP in percent of a random order, over the valid queries."""
    sizes = np.stack([ranking.num_positives, ranking.num_valid_gallery])[:, ranking.valid]
    pairs, counts = np.unique(sizes, axis=1, return_counts=True)  # many queries share their sizes
    expectations = {"Rank-1": expected_rank1, "mAP": expected_ap, "mINP": expected_inp}
    chance = {}
    for name, expect in expectations.items():
        values = [expect(positives, gallery) for positives, gallery in pairs.T.tolist()]
        chance[name] = 100.0 * float(np.average(values, weights=counts))
    return chance


@cache
def _harmonic(count: int) -> float:
    return float((1.0 / np.arange(1, count + 1)).sum())


def _check(num_positives: int, num_gallery: int) -> None:
    if not 1 <= num_positives <= num_gallery:
        raise ValueError(
            f"a chance level needs 1 <= positives <= gallery images, got {num_positives} "
            f"positives among {num_gallery} images"
        )
