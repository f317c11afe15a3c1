"""The recipes of pre-training: Swin's ImageNet recipe with people as classes."""

import pytest

from tests.miniature import ROOT
from tests.recipes import leaves, merged

PRETRAINING = {
    "MODEL.META_ARCHITECTURE": "Baseline",
    "MODEL.BACKBONE.PRETRAIN": False,
    "MODEL.HEADS.WITH_BNNECK": True,
    "MODEL.LOSSES.NAME": ("CrossEntropyLoss",),
    "MODEL.LOSSES.CE.EPSILON": 0.1,
    "INPUT.SIZE_TRAIN": [256, 128],
    "INPUT.FLIP.ENABLED": True,
    "INPUT.PADDING.ENABLED": True,
    "INPUT.REA.ENABLED": True,
    "DATASETS.NAMES": ("DiffPerson",),
    "DATALOADER.SAMPLER_TRAIN": "TrainingSampler",
    "SOLVER.OPT": "AdamW",
    "SOLVER.WEIGHT_DECAY": 0.05,
    "SOLVER.MAX_EPOCH": 300,
    "SOLVER.SCHED": "EpochWarmupCosineLR",
    "SOLVER.WARMUP_EPOCHS": 20,
}


@pytest.mark.parametrize("recipe", ["pretrain_r50", "pretrain_swin_tiny"])
def test_pretraining_has_the_settings_of_swin(recipe):
    found = leaves(merged(ROOT / f"configs/DiffPerson/{recipe}.yml"))
    assert {key: found[key] for key in PRETRAINING} == PRETRAINING
    assert found["SOLVER.BASE_LR"] == 1e-3 * found["SOLVER.IMS_PER_BATCH"] / 1024
