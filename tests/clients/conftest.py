"""What every client has: a config file, a checkpoint, and images of people in the folders of Market-1501."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastreid.config import get_cfg
from fastreid.engine import hooks  # noqa: F401 - registers what a trainer needs
from fastreid.modeling.meta_arch import build_model
from fastreid.utils.checkpoint import Checkpointer

CONFIG = """MODEL:
  DEVICE: cpu
  META_ARCHITECTURE: Baseline
  BACKBONE: {NAME: build_resnet_backbone, DEPTH: 18x, FEAT_DIM: 512}
  HEADS: {NAME: EmbeddingHead, NORM: BN, WITH_BNNECK: True, NECK_FEAT: after, EMBEDDING_DIM: 16}
  LOSSES:
    NAME: ("CrossEntropyLoss", "TripletLoss")
INPUT:
  SIZE_TRAIN: [64, 32]
  SIZE_TEST: [64, 32]
DATASETS:
  NAMES: ("Market1501",)
  TESTS: ("Market1501",)
DATALOADER: {NUM_WORKERS: 0, SAMPLER_TRAIN: NaiveIdentitySampler, NUM_INSTANCE: 2}
SOLVER:
  OPT: SGD
  BASE_LR: 0.01
  MAX_EPOCH: 3
  STEPS: [2]
  WARMUP_ITERS: 2
  IMS_PER_BATCH: 4
  CHECKPOINT_PERIOD: 1
TEST: {EVAL_PERIOD: 0, IMS_PER_BATCH: 8}
"""
SPLITS = {"bounding_box_train": range(1, 5), "query": (11, 12), "bounding_box_test": (11, 12, 13)}


def write_people(root: Path) -> None:
    """Write two images of four people to train on, a query of two and three gallery images of three, in colours."""
    draw = np.random.default_rng(0)
    for split, people in SPLITS.items():
        (root / "Market1501" / split).mkdir(parents=True)
        for person in people:
            for camera in (1,) if split == "query" else (1, 2):
                noise = np.random.default_rng(person).integers(0, 255, (16, 8, 3)) + draw.integers(0, 20, (16, 8, 3))
                name = f"{person:04d}_c{camera}s1_00000{camera}_0{camera}.jpg"
                Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(root / "Market1501" / split / name)


@pytest.fixture(scope="session")
def client(tmp_path_factory):
    """A folder with config.yml, model.pth and datasets/."""
    folder = tmp_path_factory.mktemp("client")
    write_people(folder / "datasets")
    (folder / "config.yml").write_text(CONFIG)
    cfg = get_cfg()
    cfg.merge_from_file(str(folder / "config.yml"))
    torch.manual_seed(0)
    Checkpointer(build_model(cfg, num_classes=4), folder).save("model")
    return folder


@pytest.fixture
def cfg(client, tmp_path, monkeypatch):
    """The config as a client builds it, with MODEL.WEIGHTS, and data sets at $FASTREID_DATASETS."""
    monkeypatch.setenv("FASTREID_DATASETS", str(client / "datasets"))
    cfg = get_cfg()
    cfg.merge_from_file(str(client / "config.yml"))
    cfg.merge_from_list(["MODEL.WEIGHTS", str(client / "model.pth"), "OUTPUT_DIR", str(tmp_path / "logs")])
    return cfg


@pytest.fixture(autouse=True)
def own_logger(put_handlers_back):
    """Clients set up the logger, which must not write during later tests."""
