"""What fast-reid 1.3 computes with weights and images that are made by rules (tests/golden/fastreid.npz)."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreid.config import CfgNode, get_cfg
from fastreid.modeling.model import build_model

ARRAYS = np.load(Path(__file__).parent / "golden/fastreid.npz")
CHANNELS = 4  # the file has every fourth channel of the features
_CONFIGS = Path(__file__).parent.parent / "configs/Market1501"


@dataclass(frozen=True)
class Case:
    """A model of fast-reid.

    Args:
        recipe: its file in configs/Market1501.
        backbone: keys of MODEL.BACKBONE that differ from the recipe.
    """

    recipe: str = "bagtricks_R50"
    backbone: Mapping[str, Any] = field(default_factory=dict)


def _other(name: str, **keys: Any) -> Case:
    return Case(backbone={"NAME": f"build_{name}_backbone", **keys})


CASES = {
    "bagtricks_R50": Case("bagtricks_R50"),
    "bagtricks_R50-ibn": Case("bagtricks_R50-ibn"),
    "bagtricks_S50": _other("resnest"),
    "sbs_S50": Case("sbs_R50", {"NAME": "build_resnest_backbone"}),
    "mgn_R50-ibn": Case("mgn_R50-ibn"),
    "bagtricks_vit": Case("bagtricks_vit", {"DROP_PATH_RATIO": 0.0}),
    "X50": _other("resnext"),
    "X50_ibn": _other("resnext", WITH_IBN=True),
    "R34_SE_NL": Case(backbone={"DEPTH": "34x", "WITH_SE": True, "WITH_NL": True, "FEAT_DIM": 512}),
    "mobilenetv2_1.0x": _other("mobilenetv2", DEPTH="1.0x", FEAT_DIM=1280),
    "repvgg_A0": _other("repvgg", DEPTH="A0", FEAT_DIM=1280),
    "regnety_800": _other("regnet", DEPTH="800y", FEAT_DIM=768),
    "effnet_b0": _other("effnet", DEPTH="b0", FEAT_DIM=1280),
    "osnet_x1_0": _other("osnet", DEPTH="x1_0", FEAT_DIM=512),
}


def config_of(case: str) -> CfgNode:
    """The config of a case."""
    cfg = get_cfg()
    cfg.merge_from_file(str(_CONFIGS / f"{CASES[case].recipe}.yml"))
    keys = {f"MODEL.BACKBONE.{key}": value for key, value in CASES[case].backbone.items()}
    keys |= {"MODEL.BACKBONE.PRETRAIN": False, "MODEL.HEADS.NUM_CLASSES": 20, "MODEL.DEVICE": "cpu"}
    cfg.merge_from_list([word for pair in keys.items() for word in pair])
    return cfg


def names_of(case: str) -> dict[str, tuple[int, ...]]:
    """The names and shapes in the state dict of fast-reid's model."""
    rows = (row.partition(" ") for row in str(ARRAYS[f"{case}/names"]).split("\n"))
    return {name: tuple(map(int, filter(None, shape.split("x")))) for name, _, shape in rows}


def weights_of(names: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The weights with these names and shapes."""
    return {name: _weight(name, shape) for name, shape in names.items()}


def _weight(name: str, shape: tuple[int, ...]) -> Tensor:
    random, count = np.random.RandomState(zlib.crc32(name.encode())), int(np.prod(shape, dtype=int))
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if name.endswith("running_var"):
        values = 0.5 + random.random_sample(count)
    elif name.endswith(("running_mean", "bias")):
        values = 0.1 * random.standard_normal(count)
    elif name.endswith(".p"):
        values = np.full(count, 3.0)
    elif len(shape) == 1:
        values = 0.5 + random.random_sample(count)
    elif name.endswith(("cls_token", "pos_embed")):
        values = 0.02 * random.standard_normal(count)
    else:
        values = random.standard_normal(count) / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def images_of(cfg: CfgNode) -> Tensor:
    """The four images [4, 3, H, W] of a size, of whole numbers in 0..255."""
    small = np.random.RandomState(7).randint(0, 256, (4, 3, 12, 6))
    large = F.interpolate(torch.from_numpy(small).float(), size=tuple(cfg.INPUT.SIZE_TEST), mode="bicubic")
    return large.clamp(0, 255).round()


def model_of(case: str) -> tuple[nn.Module, Tensor]:
    """The model of a case with the weights of the rule, and its images."""
    cfg = config_of(case)
    model = build_model(cfg)
    model.load_state_dict(weights_of(names_of(case)))
    return model, images_of(cfg)
