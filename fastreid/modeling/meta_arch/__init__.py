"""Trainable wholes, by `MODEL.META_ARCHITECTURE`."""

from torch import nn

from fastreid.config import CfgNode, resolve_device
from fastreid.modeling.meta_arch.sd_reid_stage1 import SDReIDStage1
from fastreid.modeling.meta_arch.sd_reid_stage2 import SDReIDStage2
from fastreid.utils.registry import Registry

META_ARCH_REGISTRY = Registry("meta-architecture")
META_ARCH_REGISTRY.register(SDReIDStage1)
META_ARCH_REGISTRY.register(SDReIDStage2)


def build_model(cfg: CfgNode, num_classes: int | None = None) -> nn.Module:
    """The model of a config, on `MODEL.DEVICE`.

    Args:
        num_classes: training identities; `MODEL.HEADS.NUM_CLASSES` if left out.
    """
    classes = cfg.MODEL.HEADS.NUM_CLASSES if num_classes is None else num_classes
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg, num_classes=classes)
    return model.to(resolve_device(cfg.MODEL.DEVICE))


__all__ = ["META_ARCH_REGISTRY", "SDReIDStage1", "SDReIDStage2", "build_model"]
