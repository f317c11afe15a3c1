"""fast-reid's place for models; they are in `fastreid.methods`."""

from fastreid.methods.models import MGN, Baseline, Distiller, SDReIDStage1, SDReIDStage2
from fastreid.modeling.model import META_ARCH_REGISTRY, build_model

__all__ = ["META_ARCH_REGISTRY", "MGN", "Baseline", "Distiller", "SDReIDStage1", "SDReIDStage2", "build_model"]
