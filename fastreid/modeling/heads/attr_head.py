"""A head with one logit for each attribute of a person, which may be more than one person has."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from fastreid.config import ConfigError, configurable
from fastreid.layers import get_norm
from fastreid.modeling.heads.embedding_head import EmbeddingHead
from fastreid.modeling.heads.head import in_own_type

logger = logging.getLogger(__name__)


class AttrHead(EmbeddingHead):
    """Map -> pooling -> 1x1 embedding (optional) -> BN neck (optional) -> linear layer -> BN: logits [B, A].

    Parameters have the names of fast-reid's project FastAttr. The logits are float32, also under autocast.

    Args:
        options: the arguments of `EmbeddingHead`; `num_classes` is A, `norm_type` is of both norms.

    Raises:
        ConfigError: no attributes, or another classifier than "Linear".
        ArgumentError: a norm that is not for vectors.
    """

    @configurable
    def __init__(self, **options: Any) -> None:
        num_attributes = options["num_classes"]
        if num_attributes < 1:
            raise ConfigError("AttrHead needs MODEL.HEADS.NUM_CLASSES, the number of attributes (PA100K: 26), got 0")
        if options["cls_type"] != "Linear":
            raise ConfigError(f"AttrHead needs MODEL.HEADS.CLS_LAYER Linear, got {options['cls_type']}")
        if options["neck_feat"] != "before" or options["scale"] != 1:
            logger.warning(
                "AttrHead reads neither MODEL.HEADS.NECK_FEAT nor MODEL.HEADS.SCALE: what is set does nothing"
            )
        super().__init__(**options)
        self.bnneck = get_norm(options["norm_type"], num_attributes, on_vectors=True)

    def forward(self, features: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return logits [B, A] of maps [B, feat_dim, h, w]; `targets` are not used."""
        with torch.autocast(features.device.type, enabled=False):
            return in_own_type(self.bnneck, self.logits(self.embed(features)[1]))
