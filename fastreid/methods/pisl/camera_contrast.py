"""Contrast of features with the proxies of their cluster in other cameras (PISL, section 3, loss 4; PPLR)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class CameraProxies:
    """The mean features of clusters in cameras, of unit length, for the global feature and each part.

    Attributes:
        features: [1 + P, Q, D].
        clusters: cluster of each proxy, [Q].
        cameras: camera of each proxy, [Q].
    """

    features: Tensor
    clusters: Tensor
    cameras: Tensor


@dataclass(frozen=True)
class CameraContrast:
    """Pulls a feature to its cluster's proxies in other cameras, away from the nearest proxies of other clusters.

    Args:
        temperature: of the softmax.
        num_hard: number of negatives.
        fills_with_own: if there are fewer, fill their places with proxies of the own cluster, as released: they then
            count in the denominator only, the positives a second time and the proxy of the own camera included.
    """

    temperature: float
    num_hard: int
    fills_with_own: bool

    def __call__(self, features: Tensor, targets: Tensor, cameras: Tensor, proxies: CameraProxies, part: int) -> Tensor:
        """Return the sum over images, divided by B; an image whose cluster is in no other camera adds 0.

        Args:
            features: [B, D].
            targets: clusters [B].
            cameras: cameras [B].
            proxies: the proxies, on the device of the features.
            part: which proxies: 0 for the global feature, then the parts.
        """
        similar = F.normalize(features.float()) @ proxies.features[part].float().T / self.temperature  # [B, Q]
        own = targets[:, None] == proxies.clusters[None, :]
        positive = own & (cameras[:, None] != proxies.cameras[None, :])
        ranked = similar.detach().masked_fill(own, -torch.inf)
        if self.fills_with_own:  # behind all others, the nearest first
            ranked = torch.where(own, similar.detach() - 4 / self.temperature, ranked)
        hardest = ranked.topk(min(self.num_hard, ranked.shape[1]), dim=1).indices
        negatives = similar.gather(1, hardest)
        if not self.fills_with_own:
            negatives = negatives.masked_fill(own.gather(1, hardest), -torch.inf)
        logits = torch.cat([similar.masked_fill(~positive, -torch.inf), negatives], dim=1)
        # Rows without a positive get finite numbers and count nothing. An index of the others would wait for a GPU.
        has_any = positive.any(dim=1)
        total = logits.masked_fill(~has_any[:, None], 0.0).logsumexp(dim=1, keepdim=True)
        losses = (total - similar) * positive
        return (losses.sum(dim=1) / positive.sum(dim=1).clamp(min=1)).sum() / len(features)
