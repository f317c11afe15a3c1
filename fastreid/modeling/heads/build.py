"""fast-reid's place for the registry of heads and the function that builds one; they are in the package."""

from fastreid.modeling.heads import REID_HEADS_REGISTRY, build_heads

__all__ = ["REID_HEADS_REGISTRY", "build_heads"]
