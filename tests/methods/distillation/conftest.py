"""Teachers with random weights, and configs of their students, on a tiny transformer or small ResNets."""

from pathlib import Path
from unittest import mock

import pytest
import torch
from timm.models.resnet import BasicBlock

from fastreid.config import CfgNode, get_cfg
from fastreid.modeling import build_model
from fastreid.modeling.backbones.resnet import RESNETS, ResNetSize
from fastreid.modeling.trained import config_text
from fastreid.utils.checkpoint import CONFIG_TEXT

CLASSES = 4
SIZE = (32, 16)
TINY = ("MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.BACKBONE.TIMM_NAME", "test_vit")
RESNET = ("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.BACKBONE.TIMM_NAME", "", "MODEL.BACKBONE.DEPTH", "18x")
COMMON = (
    *("MODEL.DEVICE", "cpu", "MODEL.HEADS.NUM_CLASSES", CLASSES, "MODEL.HEADS.WITH_BNNECK", True),
    *("INPUT.SIZE_TRAIN", SIZE, "INPUT.SIZE_TEST", SIZE),
)


def cfg_of(*keys: object) -> CfgNode:
    """Return the config of a model with the tiny transformer."""
    cfg = get_cfg()
    cfg.merge_from_list([*COMMON, *TINY, *keys])
    return cfg


def save_teacher(path: Path, *keys: object, with_config: bool = True, seed: int = 5) -> str:
    """Write a checkpoint of a model with random weights and statistics, and return its path."""
    cfg = cfg_of(*keys)
    torch.manual_seed(seed)
    model = build_model(cfg)
    for name, value in model.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_(std=0.1)
        if name == "heads.weight":
            value.normal_()
    state = {"model": model.state_dict()}
    torch.save(state | ({CONFIG_TEXT: config_text(cfg)} if with_config else {}), path)
    return str(path)


def student_cfg(teacher: str, *keys: object) -> CfgNode:
    """Return the config of a Distiller, of one teacher."""
    return cfg_of("MODEL.META_ARCHITECTURE", "Distiller", "KD.MODEL_WEIGHTS", [teacher], *keys)


def batch(size: int = 8) -> dict[str, torch.Tensor]:
    """Return images and classes."""
    images = torch.rand(size, 3, *SIZE, generator=torch.Generator().manual_seed(1)) * 255
    return {"images": images, "targets": torch.arange(size) // 2 % CLASSES}


def small_resnets():
    """ResNets with fewer blocks under the names of larger ones, in a `with` block."""
    smaller = {"18x": ResNetSize(BasicBlock, (1, 1, 1, 1)), "34x": ResNetSize(BasicBlock, (2, 1, 1, 1))}
    return mock.patch.dict(RESNETS, smaller)


@pytest.fixture(scope="module", autouse=True)
def only_small_resnets():
    """Small ResNets for the tests of a module, and no others."""
    with small_resnets():
        yield


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """A teacher with a margin classifier and other means of pixels than the student."""
    folder = tmp_path_factory.mktemp("teacher")
    keys = ("MODEL.PIXEL_MEAN", [100.0, 110.0, 120.0])
    keys += ("MODEL.HEADS.CLS_LAYER", "CosSoftmax", "MODEL.HEADS.SCALE", 16, "MODEL.HEADS.MARGIN", 0.35)
    return save_teacher(folder / "teacher.pth", *keys)


@pytest.fixture(scope="session")
def resnet(tmp_path_factory):
    """A teacher that is a ResNet."""
    folder = tmp_path_factory.mktemp("resnet")
    with small_resnets():
        return save_teacher(folder / "teacher.pth", *RESNET[:-1], "34x")
