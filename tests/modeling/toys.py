"""A tiny SD-ReID: the smallest assets, config and batch that run the real code."""

from pathlib import Path

import torch
from diffusers import PNDMScheduler, UNet2DConditionModel

from fastreid.config import CfgNode, get_cfg

FEATURE_DIM, NUM_VIEWS, NUM_BLOCKS = 192, 2, 6


def write_assets(folder: Path) -> Path:
    """A random UNet with two controlled levels, and Stable Diffusion's scheduler file."""
    torch.manual_seed(0)
    UNet2DConditionModel(
        sample_size=(8, 6),
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 32, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=FEATURE_DIM,
        attention_head_dim=4,
    ).save_pretrained(folder / "unet")
    PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    ).save_pretrained(folder / "scheduler")
    return folder


def stage1_cfg() -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(str(Path(__file__).parents[2] / "configs/quickstart/stage1.yml"))
    cfg.merge_from_list(["INPUT.SIZE_TRAIN", [64, 32], "INPUT.SIZE_TEST", [64, 32], "MODEL.DEVICE", "cpu"])
    return cfg


def stage2_cfg(assets: Path, *options: object) -> CfgNode:
    cfg = stage1_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", "SDReIDStage2"),
            *("MODEL.SDMODEL.UNET_CONFIG.PRETRAINED_PATH", str(assets / "unet")),
            *("MODEL.SDMODEL.SCHEDULER_CONFIG.PRETRAINED_PATH", str(assets / "scheduler")),
            *("MODEL.SDMODEL.UNET_CONFIG.TRAIN", "all"),
            *("MODEL.SDMODEL.CON_LEARNER_CONFIG.HEADS", 3),
            *("TEST.SDMODEL.NUM_INFERENCE_STEPS", 3),
            *options,
        ]
    )
    return cfg


def batch(size: int = 8, seed: int = 0) -> dict[str, object]:
    """Images of size/4 people, four each, in both views."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "images": torch.rand(size, 3, 64, 32, generator=generator) * 255,
        "targets": torch.arange(size) // 4,
        "viewids": torch.arange(size) % NUM_VIEWS,
        "camids": torch.arange(size) % 5,
        "img_paths": [f"image{i}.jpg" for i in range(size)],
    }


def fill_memory(model: torch.nn.Module) -> None:
    """Give the memory bank distinct centres, as a trained stage 1 would."""
    generator = torch.Generator().manual_seed(1)
    model.person.memory.centres.copy_(torch.randn(NUM_VIEWS, FEATURE_DIM, generator=generator))
    model.person.memory.seen.fill_(True)
