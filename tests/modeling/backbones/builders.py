"""Backbones by the keys of MODEL.BACKBONE."""

import torch

from fastreid.config import get_cfg
from fastreid.modeling.backbones import build_backbone


def built(**keys):
    """Return the backbone of these keys, with the same random weights each time."""
    torch.manual_seed(0)
    cfg = get_cfg()
    cfg.merge_from_list([word for key, value in keys.items() for word in (f"MODEL.BACKBONE.{key}", value)])
    return build_backbone(cfg)
