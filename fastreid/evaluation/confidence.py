"""How far the figures of a protocol could be other ones, had other queries been drawn: the bootstrap."""

from __future__ import annotations

import numpy as np

from fastreid.structures.ranking import Ranking

_AT_ONCE = 100  # resamplings: bounds the memory to 100 x Q counts


def bootstrap_intervals(
    ranking: Ranking,
    *,
    rank1: np.ndarray | None = None,
    level: float = 0.95,
    num_samples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of Rank-1, mAP and mINP over resampled valid queries (Efron, 1979), in percent.

    They tell how much of a difference the choice of queries explains, not what another gallery or training would do.

    Args:
        rank1: Rank-1 of each query, float64 [Q] in 0..1, if it is not whether the nearest image is right.
        level: share of the resamplings inside.
        num_samples: resamplings, each as large as the valid queries.
        seed: the same gives the same bits.

    Raises:
        ValueError: a level outside (0, 1), no resamplings.
    """
    if not 0 < level < 1 or num_samples < 1:
        raise ValueError(f"level must lie between 0 and 1 and num_samples be at least 1, got {level} and {num_samples}")
    valid = ranking.valid
    hits = ranking.first_match_rank == 1 if rank1 is None else rank1
    figures = {"Rank-1": hits[valid], "mAP": ranking.ap[valid], "mINP": ranking.inp[valid]}
    values = 100.0 * np.stack([figure.astype(float) for figure in figures.values()], axis=1)  # [Q, figures]
    rng, num_queries = np.random.default_rng(seed), len(values)
    means = []
    for start in range(0, num_samples, _AT_ONCE):
        draws = min(_AT_ONCE, num_samples - start)
        counts = rng.multinomial(num_queries, np.full(num_queries, 1 / num_queries), size=draws)
        means.append(counts @ values / num_queries)
    tail = 50 * (1 - level)
    low, high = np.percentile(np.concatenate(means), [tail, 100 - tail], axis=0)
    return {name: (float(a), float(b)) for name, a, b in zip(figures, low, high, strict=True)}
