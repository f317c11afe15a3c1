"""fast-reid's place for the registry of backbones and the function that builds one; they are in the package."""

from fastreid.modeling.backbones import BACKBONE_REGISTRY, build_backbone

__all__ = ["BACKBONE_REGISTRY", "build_backbone"]
