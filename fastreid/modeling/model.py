"""Models by `MODEL.META_ARCHITECTURE`."""

from __future__ import annotations

import importlib

from torch import nn

from fastreid.config import CfgNode, resolve_device
from fastreid.utils.registry import Registry

META_ARCH_REGISTRY = Registry("meta-architecture")
"""Name -> class (cfg) of a model: `model(batch)` gives a dict of losses in training, descriptors [B, D] otherwise."""


def build_model(cfg: CfgNode, num_classes: int | None = None) -> nn.Module:
    """The model of a config, on `MODEL.DEVICE`.

    Args:
        num_classes: training identities, instead of `MODEL.HEADS.NUM_CLASSES`.
    """
    importlib.import_module("fastreid.methods")  # registers the models; not above: methods import this module
    if num_classes is not None:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.HEADS.NUM_CLASSES = num_classes
        cfg.freeze()
    make = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE, key="MODEL.META_ARCHITECTURE")
    model = make(cfg)
    return model.to(resolve_device(cfg.MODEL.DEVICE))
