"""Statistics of a ranking's figures: the chance level, and bootstrap confidence intervals."""

from __future__ import annotations

from functools import cache

import numpy as np

from fastreid.structures.ranking import Ranking

_SAMPLES_AT_ONCE = 100  # bootstrap samples: bounds the memory to 100 x Q counts


def expected_rank1(num_positives: int, num_gallery: int) -> float:
    """Return E[Rank-1] = P / N: the first of N shuffled images is one of the P positives."""
    _check(num_positives, num_gallery)
    return num_positives / num_gallery


def expected_ap(num_positives: int, num_gallery: int) -> float:
    """Return E[AP] = (H + (P - 1)(N - H) / (N - 1)) / N, with H = 1 + 1/2 + ... + 1/N; 1 if N = 1.

    Place k holds a positive with probability P / N, and then (P - 1)(k - 1) / (N - 1) of the others are expected before
    it; AP is the mean of the precisions at the places of the P positives.
    """
    _check(num_positives, num_gallery)
    if num_gallery == 1:
        return 1.0
    harmonic = _harmonic(num_gallery)
    others = (num_positives - 1) * (num_gallery - harmonic) / (num_gallery - 1)
    return (harmonic + others) / num_gallery


def expected_inp(num_positives: int, num_gallery: int) -> float:
    """Return E[INP] = sum over r = P..N of P / r * Pr(last = r), Pr(last = r) = C(r-1, P-1) / C(N, P).

    The probabilities are computed by their ratio, Pr(r - 1) / Pr(r) = (r - P) / (r - 1), from Pr(N) = P / N downwards,
    without large binomials or cancellation.
    """
    _check(num_positives, num_gallery)
    rank = np.arange(num_gallery, num_positives, -1, dtype=np.float64)  # N, N - 1, ..., P + 1
    ratios = (rank - num_positives) / (rank - 1)
    probability = num_positives / num_gallery * np.concatenate([[1.0], ratios]).cumprod()
    return float((probability * num_positives / np.append(rank, num_positives)).sum())


def chance_level(ranking: Ranking) -> dict[str, float]:
    """Return the expected Rank-1, mAP and mINP of a random order in percent, over the valid queries."""
    sizes = np.stack([ranking.num_positives, ranking.num_valid_gallery])[:, ranking.valid]
    pairs, counts = np.unique(sizes, axis=1, return_counts=True)  # many queries share their sizes
    expectations = {"Rank-1": expected_rank1, "mAP": expected_ap, "mINP": expected_inp}
    chance = {}
    for name, expected in expectations.items():
        values = [expected(positives, gallery) for positives, gallery in pairs.T.tolist()]
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


def bootstrap_intervals(
    ranking: Ranking,
    *,
    rank1: np.ndarray | None = None,
    level: float = 0.95,
    num_samples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Return percentile bootstrap intervals of Rank-1, mAP and mINP over the valid queries (Efron, 1979), in percent.

    They measure the variation due to the choice of queries, not that of another gallery or training.

    Args:
        ranking: ranking of the queries.
        rank1: Rank-1 of each query, float64 [Q] in 0..1; default: whether the nearest image is a positive.
        level: share of the samples inside of the interval.
        num_samples: bootstrap samples, each as large as the valid queries.
        seed: the same seed gives the same bits.

    Raises:
        ValueError: a level outside of (0, 1), or no samples.
    """
    if not 0 < level < 1 or num_samples < 1:
        raise ValueError(f"level must lie between 0 and 1 and num_samples be at least 1, got {level} and {num_samples}")
    valid = ranking.valid
    hits = ranking.first_match_rank == 1 if rank1 is None else rank1
    figures = {"Rank-1": hits[valid], "mAP": ranking.ap[valid], "mINP": ranking.inp[valid]}
    values = 100.0 * np.stack([figure.astype(float) for figure in figures.values()], axis=1)  # [Q, figures]
    rng, num_queries = np.random.default_rng(seed), len(values)
    averages = []
    for start in range(0, num_samples, _SAMPLES_AT_ONCE):
        draws = min(_SAMPLES_AT_ONCE, num_samples - start)
        counts = rng.multinomial(num_queries, np.full(num_queries, 1 / num_queries), size=draws)
        averages.append(counts @ values / num_queries)
    tail = 50 * (1 - level)
    low, high = np.percentile(np.concatenate(averages), [tail, 100 - tail], axis=0)
    return {name: (float(a), float(b)) for name, a, b in zip(figures, low, high, strict=True)}
