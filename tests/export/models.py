"""A tiny model of each meta-architecture that can be evaluated."""

from pathlib import Path

import torch
from torch import nn

from fastreid.config import CfgNode, get_cfg
from fastreid.modeling import build_model
from fastreid.modeling.model import evaluation_config_of
from tests.modeling import toys

WITHOUT_FEATURES = {"DiffusionReID"}
_RESNET = [
    *("MODEL.DEVICE", "cpu", "MODEL.BACKBONE.DEPTH", "18x", "MODEL.HEADS.WITH_BNNECK", True),
    *("INPUT.SIZE_TRAIN", [96, 32], "INPUT.SIZE_TEST", [96, 32]),
]
KEYS = {
    "Baseline": _RESNET,
    "MGN": [*_RESNET, "MODEL.HEADS.EMBEDDING_DIM", 8],
    "DCAC": _RESNET,
    "ClusterContrast": _RESNET,
    "PISL": _RESNET,
    "AttrBaseline": [*_RESNET, "MODEL.HEADS.NAME", "AttrHead", "MODEL.LOSSES.NAME", ["BinaryCrossEntropyLoss"]],
    "Distiller": _RESNET,
    "DistillerOverhaul": _RESNET,
    "SDReIDStage1": [],
    "SDReIDStage2": [],
}


def tiny_cfg(name: str, assets: Path, *options: object) -> CfgNode:
    """Return the config of a tiny model."""
    if name.startswith("SDReID"):
        cfg = toys.stage2_cfg(assets)
    else:
        cfg = get_cfg()
    cfg.merge_from_list(["MODEL.META_ARCHITECTURE", name, *KEYS[name], *options])
    return cfg


def tiny_model(cfg: CfgNode) -> nn.Module:
    """Return the model of a config as it is evaluated; no weight is zero, so that each one counts."""
    torch.manual_seed(0)
    model = build_model(evaluation_config_of(cfg), num_classes=4)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    if cfg.MODEL.META_ARCHITECTURE.startswith("SDReID"):
        toys.fill_memory(model)
    return model.eval().requires_grad_(False)


MLP = (
    *("MODEL.SDMODEL.DENOISER", "mlp", "MODEL.SDMODEL.MLP_CONFIG.WIDTH", 16, "MODEL.SDMODEL.MLP_CONFIG.DEPTH", 1),
    *("MODEL.SDMODEL.SCHEDULER_CONFIG.PRETRAINED_PATH", "", "MODEL.SDMODEL.UNET_CONFIG.PRETRAINED_PATH", ""),
)
