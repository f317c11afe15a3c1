"""Trainable wholes, by `MODEL.META_ARCHITECTURE`."""

from torch import nn

from fastreid.config import CfgNode, resolve_device
from fastreid.modeling.meta_arch.baseline import Baseline
from fastreid.modeling.meta_arch.mgn import MGN
from fastreid.modeling.meta_arch.sd_reid_stage1 import SDReIDStage1
from fastreid.modeling.meta_arch.sd_reid_stage2 import SDReIDStage2
from fastreid.utils.registry import Registry

META_ARCH_REGISTRY = Registry("meta-architecture")
"""Name -> class (cfg) of a model: `model(batch)` gives a dict of losses in training, descriptors [B, D] otherwise."""

META_ARCH_REGISTRY.register(Baseline)
META_ARCH_REGISTRY.register(MGN)
META_ARCH_REGISTRY.register(SDReIDStage1)
META_ARCH_REGISTRY.register(SDReIDStage2)


def build_model(cfg: CfgNode, num_classes: int | None = None) -> nn.Module:
    """The model of a config, on `MODEL.DEVICE`.

    Args:
        num_classes: training identities, instead of `MODEL.HEADS.NUM_CLASSES`.
    """
    if num_classes is not None:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.HEADS.NUM_CLASSES = num_classes
        cfg.freeze()
    make = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE, key="MODEL.META_ARCHITECTURE")
    model = make(cfg)
    return model.to(resolve_device(cfg.MODEL.DEVICE))


__all__ = ["META_ARCH_REGISTRY", "MGN", "Baseline", "SDReIDStage1", "SDReIDStage2", "build_model"]
