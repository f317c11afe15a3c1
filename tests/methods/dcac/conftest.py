"""Tiny Stable Diffusion assets and a tiny DCAC."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel

from fastreid.config import CfgNode, get_cfg
from fastreid.modeling import build_model

DIM, SIZE, CLASSES = 24, 32, 5  # of tokens; of diffused images, in pixels; of people
TINY = [
    *("MODEL.META_ARCHITECTURE", "DCAC", "MODEL.DEVICE", "cpu"),
    *("MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.BACKBONE.TIMM_NAME", "test_vit"),
    *("MODEL.HEADS.WITH_BNNECK", True, "MODEL.LOSSES.CE.EPSILON", 0.1),
    *("INPUT.SIZE_TRAIN", [32, 32], "INPUT.SIZE_TEST", [32, 32]),
    *("DCAC.SD.IMAGE_SIZE", SIZE, "DCAC.LORA.RANK", 2),
]


def write_assets(folder: Path) -> Path:
    """A random pipeline whose layers that diffusers initialises with zeros are random too."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=DIM,
        attention_head_dim=4,
    )
    unet.save_pretrained(folder / "unet")
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    AutoencoderKL(**blocks, block_out_channels=(32, 32), latent_channels=4).save_pretrained(folder / "vae")
    DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").save_pretrained(
        folder / "scheduler"
    )
    return folder


@pytest.fixture(scope="session")
def sd_folder(tmp_path_factory):
    return write_assets(tmp_path_factory.mktemp("sd"))


def dcac_cfg(folder: Path, *options: object) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list([*TINY, "DCAC.SD.WEIGHTS", str(folder), *options])
    return cfg


@pytest.fixture
def make_dcac(sd_folder):
    """make_dcac(KEY, VALUE, …) -> a tiny DCAC in training mode; the same weights every time."""

    def make(*options, num_classes=CLASSES):
        torch.manual_seed(0)
        return build_model(dcac_cfg(sd_folder, *options), num_classes=num_classes)

    return make


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return {
        "images": torch.rand(8, 3, 32, 32, generator=generator) * 255,
        "diffusion_images": torch.rand(8, 3, SIZE, SIZE, generator=generator) * 255,
        "targets": torch.arange(8) // 2,
    }
