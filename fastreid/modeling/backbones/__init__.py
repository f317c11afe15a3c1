"""Backbones: builders by the name in `MODEL.BACKBONE.NAME`."""

from torch import nn

from fastreid.config import CfgNode
from fastreid.modeling.backbones.vit import ViewPromptViT, build_vit_backbone
from fastreid.utils.registry import Registry

BACKBONE_REGISTRY = Registry("backbone")
BACKBONE_REGISTRY.register(build_vit_backbone)


def build_backbone(cfg: CfgNode) -> nn.Module:
    """The backbone of a config; it has `feature_dim` and `num_blocks`."""
    return BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg)


__all__ = ["BACKBONE_REGISTRY", "ViewPromptViT", "build_backbone", "build_vit_backbone"]
