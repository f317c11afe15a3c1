"""Heads: from a feature to a neck feature and class logits, by `MODEL.HEADS.NAME`."""

from fastreid.modeling.heads.embedding_head import EmbeddingHead, HeadOutput
from fastreid.utils.registry import Registry

REID_HEADS_REGISTRY = Registry("head")
REID_HEADS_REGISTRY.register(EmbeddingHead)

__all__ = ["REID_HEADS_REGISTRY", "EmbeddingHead", "HeadOutput"]
