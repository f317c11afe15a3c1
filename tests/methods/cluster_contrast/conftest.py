"""Small pictures of people in two colours under three cameras, and the keys of a tiny ClusterContrast."""

import shlex
from pathlib import Path

import numpy as np
from PIL import Image

PEOPLE, CAMERAS, EACH = 12, 3, 2

KEYS = [
    *shlex.split("MODEL.META_ARCHITECTURE ClusterContrast MODEL.DEVICE cpu MODEL.BACKBONE.NAME build_timm_backbone"),
    *shlex.split("MODEL.BACKBONE.TIMM_NAME test_vit MODEL.BACKBONE.PRETRAIN False MODEL.HEADS.WITH_BNNECK True"),
    *(
        "DATASETS.NAMES",
        "['csv:unlabelled.csv']",
        "DATASETS.TESTS",
        "['csv:people.csv']",
        "DATALOADER.NUM_WORKERS",
        "0",
    ),
    *shlex.split(
        "DATALOADER.SAMPLER_TRAIN RandomMultipleGallerySampler DATALOADER.NUM_INSTANCE 4 DATALOADER.NUM_WORKERS 0"
    ),
    *shlex.split("SOLVER.IMS_PER_BATCH 16 SOLVER.MAX_EPOCH 3 SOLVER.ITERS_PER_EPOCH 3 SOLVER.CHECKPOINT_PERIOD 1"),
    *shlex.split("SOLVER.OPT Adam SOLVER.BASE_LR 1e-3 SOLVER.WARMUP_ITERS 0 TEST.EVAL_PERIOD 0"),
    *shlex.split("CLUSTER.K1 6 CLUSTER.K2 2 CLUSTER.MIN_SAMPLES 3 MODEL.HEADS.MAX_CLUSTERS 40"),
    *("INPUT.SIZE_TRAIN", "[32, 32]", "INPUT.SIZE_TEST", "[32, 32]"),
]


def make_domain(folder: Path, *, seed: int = 0) -> None:
    """Write images and two tables: people.csv with the person of each, and unlabelled.csv of those to train on.

    Colours of clothes differ between people, tints between cameras.

    Args:
        folder: where.
        seed: of the colours.
    """
    draw = np.random.default_rng(seed)
    colours, tints = draw.uniform(0, 255, (PEOPLE, 2, 3)), draw.uniform(0.8, 1.2, (CAMERAS, 3))
    people, unlabelled = ["path,person,camera,split"], ["path,camera"]
    for person in range(PEOPLE):
        for number in range(CAMERAS * EACH):
            camera = number // EACH
            pixels = np.repeat(colours[person] * tints[camera], 16, axis=0)[:, None] + draw.normal(0, 30, (32, 32, 3))
            name = f"{person}_{number}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name)
            unlabelled.append(f"{name},{camera}")
            for split in ("train", "query" if number == 0 else "gallery"):
                people.append(f"{name},p{person},{camera},{split}")
    (folder / "people.csv").write_text("\n".join(people) + "\n")
    (folder / "unlabelled.csv").write_text("\n".join(unlabelled) + "\n")
