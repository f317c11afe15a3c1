"""The choice of the weight of each view's generated feature, on people for validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

GRID = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)

Weights = tuple[float, ...]


def choose_view_weights(num_views: int, measure: Callable[[Weights], float]) -> Weights:
    """Return the weights with the highest figure that a search over `GRID` finds.

    The search starts at the best weight that all views share. It then changes one view at a time as long as the figure
    rises. Of equal figures the earlier one is kept.

    Args:
        num_views: V.
        measure: the figure with some weights, for example mAP.
    """
    figures: dict[Weights, float] = {}

    def figure(weights: Weights) -> float:
        if weights not in figures:
            figures[weights] = measure(weights)
        return figures[weights]

    best = max(((weight,) * num_views for weight in GRID), key=figure)
    while True:
        neighbours = [(*best[:v], weight, *best[v + 1 :]) for v in range(num_views) for weight in GRID]
        better = max(neighbours, key=figure)
        if figure(better) <= figure(best):
            return best
        best = better


def reweighted(descriptors: Tensor, weights: Sequence[float], feature_dim: int) -> Tensor:
    """Return descriptors with other weights of the generated features.

    Args:
        descriptors: [N, …] that end with V generated features of weight 1.
        weights: V weights.
        feature_dim: D.
    """
    tail = feature_dim * len(weights)
    factors = torch.tensor(weights, dtype=descriptors.dtype).sqrt().repeat_interleave(feature_dim)
    return torch.cat([descriptors[:, :-tail], descriptors[:, -tail:] * factors], dim=1)
