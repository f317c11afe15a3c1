"""What heads on maps and on vectors share: a neck, and logits of classes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from fastreid.config import ConfigError
from fastreid.utils.suggest import explain_choice

NECK_FEATS = ("before", "after")


def in_own_type(layer: nn.Module, features: Tensor) -> Tensor:
    """Return the result of a layer in float32; one that was converted (`model.half()`) computes in its own type."""
    return layer(features.to(next(layer.parameters(), features).dtype)).float()


class Head(nn.Module):
    """Base class of heads: features -> pooling (of maps) -> `bottleneck` -> inner products with `class_weights`.

    Args:
        neck_feat: which features losses of pairs see: those "before" the neck, or "after" it.

    Raises:
        ConfigError: another `neck_feat`.
    """

    bottleneck: nn.Module

    def __init__(self, neck_feat: str) -> None:
        super().__init__()
        if neck_feat not in NECK_FEATS:
            raise ConfigError(explain_choice("MODEL.HEADS.NECK_FEAT", neck_feat, NECK_FEATS))
        self.neck_feat = neck_feat

    @property
    def class_weights(self) -> nn.Parameter:
        """Weights [C, D] of the classes."""
        raise NotImplementedError

    @property
    def has_neck_features(self) -> bool:
        """Whether losses of pairs see features after the neck."""
        return self.neck_feat == "after"

    def embed(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features before the neck and those after it, in float32."""
        features = features.float()
        return features, in_own_type(self.bottleneck, features)

    def logits(self, neck: Tensor) -> Tensor:
        """Return the inner products [B, C] of neck features [B, D] and class weights."""
        return F.linear(neck, self.class_weights.float())

    def freeze_unused(self, used: set[str]) -> None:
        """Freeze the parameters that no loss reaches; distributed training would wait for their gradients.

        Args:
            used: outputs that losses take: "cls_outputs", "features".
        """
        if "cls_outputs" not in used:
            self.class_weights.requires_grad_(False)
            if not (used and self.has_neck_features):
                self.bottleneck.requires_grad_(False)
