"""What several methods share: backbones, heads, losses, diffusion, and the interface of a model."""

from fastreid.modeling.model import META_ARCH_REGISTRY, build_model

__all__ = ["META_ARCH_REGISTRY", "build_model"]
