"""fast-reid's place for the registry of models and the function that builds one; they are in the package."""

from fastreid.modeling.meta_arch import META_ARCH_REGISTRY, build_model

__all__ = ["META_ARCH_REGISTRY", "build_model"]
