"""Backbones: builders by the name in `MODEL.BACKBONE.NAME`."""

from torch import nn

from fastreid.config import CfgNode, ConfigError
from fastreid.modeling.backbones.resnet import ResNet, build_resnet_backbone, build_resnext_backbone
from fastreid.modeling.backbones.timm_models import FAMILIES, TimmBackbone, build_timm_backbone, family_builder
from fastreid.modeling.backbones.vit import ViewPromptViT, ViT, build_vit_backbone
from fastreid.utils.registry import Registry

BACKBONE_REGISTRY = Registry("backbone")
"""Name -> function (cfg) -> network from normalised images to maps [B, C, h, w].

Ours have `feature_dim` (C), and for layer-wise learning rates `layer_of(name of a parameter)`: 0 for the stem …
`num_layers` for what comes last.
"""

for _build in (build_resnet_backbone, build_resnext_backbone, build_vit_backbone, build_timm_backbone):
    BACKBONE_REGISTRY.register(_build)
for _name, _family in FAMILIES.items():
    BACKBONE_REGISTRY.register(family_builder(_name, _family))

ANY_DIM = 2048  # fast-reid's default of FEAT_DIM, which nobody sets on purpose for a network of another width


def build_backbone(cfg: CfgNode) -> nn.Module:
    """The backbone of a config.

    Raises:
        ConfigError: MODEL.BACKBONE.FEAT_DIM is not the default, and not what the backbone has.
    """
    backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME, key="MODEL.BACKBONE.NAME")(cfg)
    asked, found = cfg.MODEL.BACKBONE.FEAT_DIM, getattr(backbone, "feature_dim", None)
    if found not in (None, asked) and asked != ANY_DIM and cfg.MODEL.HEADS.POOL_LAYER != "Flatten":
        raise ConfigError(
            f"MODEL.BACKBONE.FEAT_DIM is {asked}, but {cfg.MODEL.BACKBONE.NAME} with DEPTH "
            f"{cfg.MODEL.BACKBONE.DEPTH!r} gives {found}"
        )
    return backbone


def with_feature_dim(cfg: CfgNode, backbone: nn.Module) -> CfgNode:
    """A frozen copy of a config whose MODEL.BACKBONE.FEAT_DIM, if the default, is the backbone's own."""
    cfg = cfg.clone()
    cfg.defrost()
    if cfg.MODEL.BACKBONE.FEAT_DIM == ANY_DIM:
        cfg.MODEL.BACKBONE.FEAT_DIM = getattr(backbone, "feature_dim", ANY_DIM)
    cfg.freeze()
    return cfg


__all__ = [
    "BACKBONE_REGISTRY",
    "ResNet",
    "TimmBackbone",
    "ViT",
    "ViewPromptViT",
    "build_backbone",
    "build_resnet_backbone",
    "build_resnext_backbone",
    "build_timm_backbone",
    "build_vit_backbone",
    "with_feature_dim",
]
