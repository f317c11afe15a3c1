"""A head on vectors: of person and view tokens (Luo et al., "Bag of Tricks", section 3.6)."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from fastreid.layers import get_norm
from fastreid.modeling.heads.head import Head
from fastreid.utils.errors import ArgumentError


class HeadOutput(NamedTuple):
    """Output for B features.

    Args:
        neck: [B, D] for retrieval.
        logits: [B, C] for cross-entropy.
    """

    neck: Tensor
    logits: Tensor


class VectorHead(Head):
    """Feature [B, D] -> BN neck (its bias stays zero) -> classifier without bias.

    Args:
        feature_dim: D.
        num_classes: C, at least 1.
        with_bnneck: False leaves the feature as it is.
        norm: a name in `fastreid.layers.NORMS_ON_VECTORS`.
        neck_feat: as in `Head`.

    Raises:
        ArgumentError: no classes.
    """

    def __init__(
        self,
        feature_dim: int,
        num_classes: int,
        *,
        with_bnneck: bool = True,
        norm: str = "BN",
        neck_feat: str = "before",
    ) -> None:
        super().__init__(neck_feat)
        if num_classes < 1:
            raise ArgumentError(f"a classifier needs at least one class, got num_classes={num_classes}")
        self.bottleneck = (
            get_norm(norm, feature_dim, bias_freeze=True, on_vectors=True) if with_bnneck else nn.Identity()
        )
        self.classifier = nn.Linear(feature_dim, num_classes, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.01)

    @property
    def class_weights(self) -> nn.Parameter:
        """Weights [C, D] of the classes."""
        return cast(nn.Parameter, self.classifier.weight)

    def neck(self, features: Tensor) -> Tensor:
        """Return retrieval features [B, D], in float32."""
        return self.embed(features)[1]

    def forward(self, features: Tensor) -> HeadOutput:
        """Return neck features and logits of features [B, D]."""
        neck = self.neck(features)
        with torch.autocast(features.device.type, enabled=False):  # losses are computed in float32
            return HeadOutput(neck, self.logits(neck))
