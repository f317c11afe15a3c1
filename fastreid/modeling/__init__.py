"""Networks: backbones, heads, losses, diffusion, and the wholes made of them."""

from fastreid.modeling.meta_arch import META_ARCH_REGISTRY, build_model

__all__ = ["META_ARCH_REGISTRY", "build_model"]
