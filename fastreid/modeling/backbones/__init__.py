"""Backbones, by the name of their builder in `MODEL.BACKBONE.NAME`."""

from torch import nn

from fastreid.config import CfgNode, ConfigError, with_values
from fastreid.modeling.backbones.clip import ClipViT, build_clip_backbone
from fastreid.modeling.backbones.families import FAMILIES, family_builder
from fastreid.modeling.backbones.interface import SizedBackbone, ViewAwareBackbone, feature_dim_of
from fastreid.modeling.backbones.local_weights import with_local_weights
from fastreid.modeling.backbones.osnet import OSNet, build_osnet_backbone
from fastreid.modeling.backbones.resnet import ResNet, build_resnet_backbone, build_resnext_backbone
from fastreid.modeling.backbones.shufflenet import ShuffleNetV2, build_shufflenetv2_backbone
from fastreid.modeling.backbones.timm_models import TimmBackbone, build_timm_backbone
from fastreid.modeling.backbones.view_prompt import ViewPromptViT, with_view_prompt
from fastreid.modeling.backbones.vit import ViT, build_vit_backbone
from fastreid.utils.registry import Registry

BACKBONE_REGISTRY = Registry("backbone")
"""Name -> function (cfg) -> network from normalised images to maps [B, C, h, w].

A backbone may declare its channels C (`SizedBackbone`) and the depth of its parameters, for layer-wise learning rates
(`fastreid.modeling.model.Layered`).
"""

_BUILDERS = (
    build_resnet_backbone,
    build_resnext_backbone,
    build_osnet_backbone,
    build_shufflenetv2_backbone,
    build_vit_backbone,
    build_clip_backbone,
    build_timm_backbone,
)
for _build in _BUILDERS:
    BACKBONE_REGISTRY.register(_build)
for _name, _family in FAMILIES.items():
    BACKBONE_REGISTRY.register(family_builder(_name, _family))

ANY_DIM = 2048  # the default of FEAT_DIM in fast-reid, which stands for the channels that the backbone has


def build_backbone(cfg: CfgNode) -> nn.Module:
    """Return the backbone of a config.

    Raises:
        ConfigError: MODEL.BACKBONE.FEAT_DIM is neither the default nor the number of channels of the backbone.
        RegistryError: no such backbone; the message lists all.
    """
    cfg = with_local_weights(cfg)
    backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME, key="MODEL.BACKBONE.NAME")(cfg)
    asked, found = cfg.MODEL.BACKBONE.FEAT_DIM, feature_dim_of(backbone)
    if found not in (None, asked) and asked != ANY_DIM and cfg.MODEL.HEADS.POOL_LAYER != "Flatten":
        raise ConfigError(
            f"MODEL.BACKBONE.FEAT_DIM is {asked}, but {cfg.MODEL.BACKBONE.NAME} with DEPTH "
            f"{cfg.MODEL.BACKBONE.DEPTH!r} gives {found}"
        )
    return backbone


def with_feature_dim(cfg: CfgNode, backbone: nn.Module) -> CfgNode:
    """Return a frozen copy of a config in which the default of MODEL.BACKBONE.FEAT_DIM is replaced.

    Args:
        cfg: the config.
        backbone: its channels replace the default, if it declares them.
    """
    dim = cfg.MODEL.BACKBONE.FEAT_DIM
    return with_values(cfg, {"MODEL.BACKBONE.FEAT_DIM": feature_dim_of(backbone) or dim if dim == ANY_DIM else dim})


__all__ = [
    "BACKBONE_REGISTRY",
    "ClipViT",
    "OSNet",
    "ResNet",
    "ShuffleNetV2",
    "SizedBackbone",
    "TimmBackbone",
    "ViT",
    "ViewAwareBackbone",
    "ViewPromptViT",
    "build_backbone",
    "build_clip_backbone",
    "build_osnet_backbone",
    "build_resnet_backbone",
    "build_resnext_backbone",
    "build_shufflenetv2_backbone",
    "build_timm_backbone",
    "build_vit_backbone",
    "with_feature_dim",
    "with_local_weights",
    "with_view_prompt",
]
