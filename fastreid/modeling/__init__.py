"""What several methods share: backbones, heads, losses, diffusion, and the interface of a model."""

from fastreid.modeling.model import META_ARCH_REGISTRY, RatePart, ReidModel, build_model, interface_of

__all__ = ["META_ARCH_REGISTRY", "RatePart", "ReidModel", "build_model", "interface_of"]
