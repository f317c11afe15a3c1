"""Small pictures of people in two colours under three cameras, and the keys of a tiny ClusterContrast."""

import shlex
from pathlib import Path

import numpy as np
from PIL import Image

PEOPLE, CAMERAS, EACH = 12, 3, 2

KEYS = [
    *shlex.split("MODEL.META_ARCHITECTURE ClusterContrast MODEL.DEVICE cpu MODEL.BACKBONE.NAME build_timm_backbone"),
    *shlex.split("MODEL.BACKBONE.TIMM_NAME test_vit MODEL.BACKBONE.PRETRAIN False MODEL.HEADS.WITH_BNNECK True"),
    *("DATASETS.NAMES", "['csv:people.csv']", "DATASETS.TESTS", "['csv:people.csv']", "DATALOADER.NUM_WORKERS", "0"),
    *shlex.split("DATALOADER.SAMPLER_TRAIN RandomMultipleGallerySampler DATALOADER.NUM_INSTANCE 4"),
    *shlex.split("SOLVER.IMS_PER_BATCH 16 SOLVER.MAX_EPOCH 3 SOLVER.ITERS_PER_EPOCH 3 SOLVER.CHECKPOINT_PERIOD 1"),
    *shlex.split("SOLVER.OPT Adam SOLVER.BASE_LR 1e-3 SOLVER.WARMUP_ITERS 0 TEST.EVAL_PERIOD 0"),
    *shlex.split("CLUSTER.K1 6 CLUSTER.K2 2 CLUSTER.MIN_SAMPLES 3 MODEL.HEADS.MAX_CLUSTERS 40"),
    *("INPUT.SIZE_TRAIN", "[32, 32]", "INPUT.SIZE_TEST", "[32, 32]"),
]


def make_domain(folder: Path, *, seed: int = 0, named: bool = True) -> None:
    """Write people.csv and its images: colours of clothes differ between people, tints between cameras.

    Args:
        folder: where.
        seed: of the colours.
        named: whether the column of the person is right; otherwise every image has a person of its own.
    """
    draw = np.random.default_rng(seed)
    colours, tints = draw.uniform(0, 255, (PEOPLE, 2, 3)), draw.uniform(0.8, 1.2, (CAMERAS, 3))
    lines = ["path,person,camera,view,split"]
    for person in range(PEOPLE):
        for number in range(CAMERAS * EACH):
            camera = number // EACH
            pixels = np.repeat(colours[person] * tints[camera], 16, axis=0)[:, None] + draw.normal(0, 30, (32, 32, 3))
            name = f"{seed}_{person}_{number}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name)
            who = f"p{person}" if named else f"p{person}_{number}"
            lines.append(f"{name},{who},{camera},aerial,train")
            lines.append(f"{name},p{person},{camera},aerial,{'query' if number == 0 else 'gallery'}")
    (folder / "people.csv").write_text("\n".join(lines) + "\n")
