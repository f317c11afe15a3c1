"""Heads on maps and on vectors: neck features and class logits. Those on maps are named by `MODEL.HEADS.NAME`."""

from torch import nn

from fastreid.config import CfgNode
from fastreid.modeling.heads.attr_head import AttrHead
from fastreid.modeling.heads.embedding_head import ClasHead, EmbeddingHead
from fastreid.modeling.heads.head import Head
from fastreid.modeling.heads.vector_head import HeadOutput, VectorHead
from fastreid.utils.registry import Registry

REID_HEADS_REGISTRY = Registry("head")
"""Name -> class (cfg) of a head: (maps [B, C, h, w], targets [B]) -> dict in training, (maps) -> feature otherwise."""

REID_HEADS_REGISTRY.register(EmbeddingHead)
REID_HEADS_REGISTRY.register(ClasHead)
REID_HEADS_REGISTRY.register(AttrHead)


def build_heads(cfg: CfgNode) -> nn.Module:
    """Return the head named `MODEL.HEADS.NAME`, for maps of `MODEL.BACKBONE.FEAT_DIM` channels.

    Raises:
        RegistryError: no such head; the message lists all.
    """
    return REID_HEADS_REGISTRY.get(cfg.MODEL.HEADS.NAME, key="MODEL.HEADS.NAME")(cfg)


__all__ = [
    "REID_HEADS_REGISTRY",
    "AttrHead",
    "ClasHead",
    "EmbeddingHead",
    "Head",
    "HeadOutput",
    "VectorHead",
    "build_heads",
]
