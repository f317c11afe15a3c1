"""The heads of the parts: a BN neck and a classifier each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastreid.layers import get_norm


class PartHeads(nn.Module):
    """P necks, whose bias stays zero, and P classifiers without bias.

    Args:
        num_parts: P.
        dim: D of the part features.
        num_rows: rows of each classifier, the most clusters that there may be.
        norm: a name in `fastreid.layers.NORM_REGISTRY`.
        std: standard deviation of the first weights of the classifiers.
    """

    def __init__(self, *, num_parts: int, dim: int, num_rows: int, norm: str, std: float) -> None:
        super().__init__()
        self.necks = nn.ModuleList(get_norm(norm, dim, bias_freeze=True) for _ in range(num_parts))
        self.classifiers = nn.Parameter(torch.empty(num_parts, num_rows, dim))
        nn.init.normal_(self.classifiers, std=std)

    def embed(self, pooled: Tensor) -> Tensor:
        """Return part features [B, P, D] after the necks, of pooled patches [B, P, D]."""
        parts = [
            neck(part[..., None, None])[..., 0, 0] for neck, part in zip(self.necks, pooled.unbind(1), strict=True)
        ]
        return torch.stack(parts, dim=1)

    def logits(self, parts: Tensor, num_clusters: int) -> Tensor:
        """Return the logits [B, P, K] of the first K rows, for part features [B, P, D]."""
        return torch.einsum("bpd,pkd->bpk", parts, self.classifiers[:, :num_clusters])
