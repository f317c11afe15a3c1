"""The smallest run: a table of images of noise and a test transformer of timm, trained in a second."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.miniature import run_tool

CONFIG = """# Trains a tiny network on a table of images.
MODEL:
  META_ARCHITECTURE: Baseline
  DEVICE: cpu
  PIXEL_MEAN: [127.5, 127.5, 127.5]
  BACKBONE: {NAME: build_timm_backbone, TIMM_NAME: test_vit}
  HEADS:
    WITH_BNNECK: True
    NUM_CLASSES: 0
  LOSSES:
    NAME: ("CrossEntropyLoss", "TripletLoss")
    CE: {EPSILON: 0.1}
INPUT:
  SIZE_TRAIN: &size [32, 32]
  SIZE_TEST: *size
  REA: {ENABLED: True, PROB: 0.5}
DATASETS:
  NAMES: ["csv:people.csv"]
  TESTS: ["csv:people.csv"]
DATALOADER: {NUM_WORKERS: 0, SAMPLER_TRAIN: NaiveIdentitySampler, NUM_INSTANCE: 2}
SOLVER:
  OPT: SGD
  BASE_LR: 1e-3
  MAX_EPOCH: 2
  STEPS: [1]
  IMS_PER_BATCH: 4
  WARMUP_ITERS: 0
TEST:
  EVAL_PERIOD: 1
  IMS_PER_BATCH: 8
  RERANK: {ENABLED: False, K1: 3}
OUTPUT_DIR: out
"""


def make_people(folder: Path) -> None:
    """Write config.yml, people.csv with its images, and train one epoch into out/."""
    draw = np.random.default_rng(0)
    lines = ["path,person,camera,view,split"]
    for split, cameras in (("train", (0, 1)), ("query", (0,)), ("gallery", (1, 2))):
        for person in range(3):
            for camera in cameras:
                name = f"{split}_{person}_{camera}.png"
                Image.fromarray(draw.integers(0, 255, (32, 16, 3), dtype=np.uint8)).save(folder / name)
                lines.append(f"{name},p{person},{camera},aerial,{split}")
    (folder / "people.csv").write_text("\n".join(lines) + "\n")
    (folder / "config.yml").write_text(CONFIG)
    run_tool("tools/train_net.py", "--config-file", "config.yml", "SOLVER.MAX_EPOCH", "1", cwd=folder)
