"""BN neck and linear classifier on vectors: of SD-ReID's person and view tokens (Luo et al., section 3.6)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastreid.layers.sync_batch_norm import SyncBatchNorm
from fastreid.utils.errors import ArgumentError


class HeadOutput(NamedTuple):
    """Of B features: `neck` [B, D] for retrieval, `logits` [B, C] for cross-entropy."""

    neck: Tensor
    logits: Tensor


NORMS: dict[str, type[nn.Module]] = {"BN": nn.BatchNorm1d, "syncBN": SyncBatchNorm}


class VectorHead(nn.Module):
    """Feature [B, D] -> BN neck (its bias stays zero) -> bias-free classifier.

    Args:
        feature_dim: D.
        num_classes: C, at least 1.
        with_bnneck: False leaves the feature as it is.
        norm: a row of `NORMS`: statistics of this process's images, or of those of all processes.
    """

    def __init__(self, feature_dim: int, num_classes: int, *, with_bnneck: bool = True, norm: str = "BN") -> None:
        super().__init__()
        if num_classes < 1:
            raise ArgumentError(f"a classifier needs at least one class, got num_classes={num_classes}")
        self.bottleneck: nn.Module = NORMS[norm](feature_dim) if with_bnneck else nn.Identity()
        if with_bnneck:
            self.bottleneck.bias.requires_grad_(False)
        self.classifier = nn.Linear(feature_dim, num_classes, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.01)

    def neck(self, features: Tensor) -> Tensor:
        """Retrieval feature [B, D], float32."""
        return self.bottleneck(features.float())

    def forward(self, features: Tensor) -> HeadOutput:
        neck = self.neck(features)
        with torch.autocast(features.device.type, enabled=False):  # losses are computed in float32
            return HeadOutput(neck, self.classifier(neck))
