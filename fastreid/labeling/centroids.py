"""Centres of clusters, and of the images of each camera in a cluster."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def centroids(features: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of the unit features of each cluster, scaled to unit length.

    Args:
        features: [M, D].
        labels: clusters int64 [M], 0 … K - 1; images with -1 are left out.

    Returns:
        float32 [K, D].
    """
    is_kept = labels >= 0
    return _unit_means(F.normalize(features[is_kept].float(), dim=1), labels[is_kept])


def camera_proxies(features: Tensor, labels: Tensor, cameras: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the centre of the images that each camera has of each cluster.

    Args:
        features: [M, D].
        labels: clusters int64 [M], 0 … K - 1; images with -1 are left out.
        cameras: int64 [M].

    Returns:
        The proxies float32 [Q, D], unit means of unit features, in the order of clusters and then of cameras; the
        cluster [Q] and the camera [Q] of each.
    """
    is_kept = labels >= 0
    pairs = torch.stack([labels, cameras], dim=1)[is_kept]
    found, proxy_of = pairs.unique(dim=0, return_inverse=True)
    return _unit_means(F.normalize(features[is_kept].float(), dim=1), proxy_of), found[:, 0], found[:, 1]


def _unit_means(features: Tensor, groups: Tensor) -> Tensor:
    """Return the unit mean of each group; the scale of a sum does not matter."""
    count = int(groups.max()) + 1 if len(groups) else 0
    sums = features.new_zeros(count, features.shape[1]).index_add_(0, groups, features)
    return F.normalize(sums, dim=1)
