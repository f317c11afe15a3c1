"""The config files of the repository, and config keys that replace large pretrained weights by tiny random ones."""

from pathlib import Path

import torch
from yacs.config import CfgNode

from fastreid.config import get_cfg
from fastreid.modeling import build_model
from fastreid.modeling.trained import config_text
from fastreid.utils.checkpoint import CONFIG_TEXT
from tests.miniature import ROOT

GRAMMARS = sorted((ROOT / "configs/grammars").glob("*.yml"))  # of Diffusion-ReID: words, not keys
CONFIGS = sorted({*(ROOT / "configs").rglob("*.yml")} - {*GRAMMARS})
BASES = [path for path in CONFIGS if path.parent.name == "_base_" or path.name.startswith("Base-")]
RECIPES = [path for path in CONFIGS if path not in BASES]
RELEASED = ROOT / "configs/_base_/released.yml"
CARGO_STAGE2_FILE = ROOT / "configs/CARGO/base_stage2_step5.yml"


def name_of(path: Path) -> str:
    """Return the path of a config below the repository."""
    return str(path.relative_to(ROOT))


def merged(*paths: Path) -> CfgNode:
    """Return the config of files, later ones over earlier ones."""
    cfg = get_cfg()
    for path in paths:
        cfg.merge_from_file(str(path))
    return cfg


def leaves(tree: CfgNode, prefix: str = "") -> dict[str, object]:
    """Return all keys of a config by their full names."""
    flat = {}
    for key, value in tree.items():
        flat |= leaves(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {prefix + key: value}
    return flat


def is_stage2(cfg: CfgNode) -> bool:
    """Return whether a config is of the second stage of SD-ReID."""
    return cfg.MODEL.META_ARCHITECTURE == "SDReIDStage2"


# The schedule of CLIP-ReID and DCAC.
EPOCH_WARMUP = {
    "SOLVER.SCHED": "EpochWarmupMultiStepLR",
    "SOLVER.WARMUP_EPOCHS": 10,
    "SOLVER.WARMUP_FACTOR": 0.1,
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.STEPS": [30, 50],
    "SOLVER.GAMMA": 0.1,
}

# Names of the two stages of each pair of published recipes, below configs/.
PAIRS = {
    "CARGO": ("CARGO/base_stage1", "CARGO/base_stage2_step5"),
    "v1": ("v1/base_stage1", "v1/base_stage2"),
    "v2": ("v2/base_stage1", "v2/base_stage2"),
    "LAGPeR": ("LAGPeR/base_stage1", "LAGPeR/base_stage2"),
    "G2APS": ("G2APS_ReID/base_stage1", "G2APS_ReID/base_stage2"),
    "G2APS_128": ("G2APS_ReID/base_stage1_128", "G2APS_ReID/base_stage2_128"),
}


def asset_keys(folder: Path) -> list[str]:
    """Return the config keys with the paths of assets in `folder`."""
    return [
        *("MODEL.SDMODEL.UNET_CONFIG.PRETRAINED_PATH", str(folder / "unet")),
        *("MODEL.SDMODEL.SCHEDULER_CONFIG.PRETRAINED_PATH", str(folder / "scheduler")),
    ]


# Keys with which a config for the UNet of Stable Diffusion fits the tiny UNet; the same for every recipe.
TINY_MODEL = [
    *("MODEL.BACKBONE.DEPTH", "mini", "MODEL.BACKBONE.FEAT_DIM", "192"),
    *("MODEL.SDMODEL.CON_LEARNER_CONFIG.N_CTX", "0", "MODEL.SDMODEL.CON_LEARNER_CONFIG.CTX_DIM", "192"),
    *("MODEL.SDMODEL.CON_LEARNER_CONFIG.OUT_CHANNELS", "[32, 64, 32, 64]"),
    *("MODEL.SDMODEL.UNET_CONFIG.TRAINABLE_BLOCK_IDX", "[3, 4, 6, 7]"),
]


def save_stage1(recipe: Path, path: Path, *options: str) -> list[str]:
    """Write an untrained stage 1 that fits a stage-2 recipe, and return the keys with its path."""
    return save_model("SDReIDStage1", recipe, path, *options)


def save_teacher(recipe: Path, path: Path) -> str:
    """Write an untrained teacher with the student's own network for a recipe with distillation, and return its path."""
    cfg = merged(recipe)
    keys = ["MODEL.META_ARCHITECTURE", "Baseline", "MODEL.DEVICE", "cpu", "MODEL.BACKBONE.PRETRAIN", False]
    cfg.merge_from_list([*keys, "MODEL.HEADS.NUM_CLASSES", 8])
    torch.save({"model": build_model(cfg).state_dict(), CONFIG_TEXT: config_text(cfg)}, path)
    return str(path)


def save_model(stage: str, recipe: Path, path: Path, *options: str) -> list[str]:
    """Write an untrained model of a stage with the sizes of a recipe, and return the keys with its path."""
    cfg = merged(recipe)
    cfg.merge_from_list([*options, "MODEL.META_ARCHITECTURE", stage, "MODEL.DEVICE", "cpu"])
    torch.manual_seed(0)
    model = build_model(cfg, num_classes=8)
    memory = model.person.memory  # as if training had seen every view
    memory.update(torch.randn_like(memory.centres), torch.arange(memory.num_views))
    torch.save({"model": model.state_dict()}, path)
    return ["MODEL.WEIGHTS", str(path)]
