"""Heads of fast-reid on maps: the retrieval feature, and class logits in training."""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreid.config import CfgNode, ConfigError, configurable
from fastreid.layers import POOLING_REGISTRY, SOFTMAX_REGISTRY, get_norm
from fastreid.modeling.heads.head import Head, in_own_type

logger = logging.getLogger(__name__)


class EmbeddingHead(Head):
    """Map -> pooling -> 1x1 embedding (optional) -> BN neck (optional) -> classifier.

    In eval mode `head(maps)` returns the neck feature [B, D]. In training `head(maps, targets)` returns a dict:
    `cls_outputs` [B, C] for cross-entropy (with margins), `pred_class_logits` [B, C] (without margins) and `features`
    [B, D] for losses of pairs. All are float32, also under autocast.

    Args:
        feat_dim: channels of the maps.
        embedding_dim: D; 0 keeps `feat_dim` and has no embedding.
        num_classes: C; 0 for a model that is only evaluated.
        neck_feat: which feature losses of pairs see: "before" the neck (and embedding), or "after".
        pool_type: a name in `POOLING_REGISTRY`.
        cls_type: a name in `SOFTMAX_REGISTRY`.
        scale: scale of the logits.
        margin: margin of the classifier.
        with_bnneck: add a norm whose bias stays zero (Luo et al., "Bag of Tricks", section 3.6).
        norm_type: a name in `fastreid.layers.NORM_REGISTRY`.
        num_splits: parts of a batch, of GhostBN.

    Raises:
        ConfigError: another `neck_feat`; in training, no classes.
        RegistryError: another name.
    """

    @configurable
    def __init__(
        self,
        *,
        feat_dim: int,
        embedding_dim: int,
        num_classes: int,
        neck_feat: str,
        pool_type: str,
        cls_type: str,
        scale: float,
        margin: float,
        with_bnneck: bool,
        norm_type: str,
        num_splits: int = 1,
    ) -> None:
        super().__init__(neck_feat)
        self.pool_layer = POOLING_REGISTRY.get(pool_type)()
        neck: list[nn.Module] = []
        if embedding_dim > 0:
            embedding = nn.Conv2d(feat_dim, embedding_dim, 1, bias=False)
            nn.init.kaiming_normal_(embedding.weight, mode="fan_out")
            neck.append(embedding)
        feature_dim = embedding_dim or feat_dim
        if with_bnneck:
            neck.append(get_norm(norm_type, feature_dim, num_splits=num_splits, bias_freeze=True))
        # A chain, as its numbers are names in checkpoints.
        self.bottleneck = nn.Sequential(*neck)
        self.weight = nn.Parameter(torch.empty(num_classes, feature_dim))
        nn.init.normal_(self.weight, std=0.01)
        self.cls_layer = SOFTMAX_REGISTRY.get(cls_type)(num_classes, scale, margin)
        if margin and cls_type == "Linear":
            logger.warning("MODEL.HEADS.CLS_LAYER Linear has no margin: MODEL.HEADS.MARGIN %g does nothing", margin)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments for a config."""
        keys = cfg.MODEL.HEADS
        return {
            "feat_dim": cfg.MODEL.BACKBONE.FEAT_DIM,
            "embedding_dim": keys.EMBEDDING_DIM,
            "num_classes": keys.NUM_CLASSES,
            "neck_feat": keys.NECK_FEAT,
            "pool_type": keys.POOL_LAYER,
            "cls_type": keys.CLS_LAYER,
            "scale": keys.SCALE,
            "margin": keys.MARGIN,
            "with_bnneck": keys.WITH_BNNECK,
            "norm_type": keys.NORM,
            "num_splits": keys.NORM_SPLIT,
        }

    def forward(self, features: Tensor, targets: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """Return the outputs for maps [B, feat_dim, h, w] and, in training, classes [B]."""
        with torch.autocast(features.device.type, enabled=False):
            pooled, neck = self.embed(features)
            return self.classify(pooled, neck, targets) if self.training else neck

    @property
    def class_weights(self) -> nn.Parameter:
        """Weights [C, D] of the classes."""
        return self.weight

    def embed(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [B, feat_dim] before and [B, D] after the neck."""
        pooled = self.pool_layer(features.float())
        return pooled[..., 0, 0], in_own_type(self.bottleneck, pooled)[..., 0, 0]

    def logits(self, neck: Tensor) -> Tensor:
        """Return inner products [B, C] of neck features and class weights, or cosines if the classifier takes those."""
        if self.cls_layer.takes_cosines:
            return F.linear(F.normalize(neck), F.normalize(self.weight.float()))
        return super().logits(neck)

    def classify(self, pooled: Tensor, neck: Tensor, targets: Tensor | None) -> dict[str, Tensor]:
        """Return the outputs in training, of features [B, feat_dim] before and [B, D] after the neck."""
        if not len(self.weight):
            raise ConfigError("a classifier needs at least one class to train, got MODEL.HEADS.NUM_CLASSES 0")
        logits = self.logits(neck)
        return {
            "cls_outputs": self.cls_layer(logits, targets),
            "pred_class_logits": self.cls_layer.s * logits,
            "features": neck if self.has_neck_features else pooled,
        }


class ClasHead(EmbeddingHead):
    """Head for classification: in eval mode it returns scaled logits [B, C]; losses of pairs see the neck features."""

    @property
    def has_neck_features(self) -> bool:
        """Always True."""
        return True

    def forward(self, features: Tensor, targets: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """Return the outputs for maps [B, feat_dim, h, w] and, in training, classes [B]."""
        with torch.autocast(features.device.type, enabled=False):
            pooled, neck = self.embed(features)
            return self.classify(pooled, neck, targets) if self.training else self.cls_layer.s * self.logits(neck)
