"""The recipes of DCAC have the values of its paper and release."""

import pytest

from tests.miniature import ROOT
from tests.recipes import EPOCH_WARMUP, leaves, merged

# Values of DCAC, and those that differ: (rank, tau).
DCAC = EPOCH_WARMUP | {
    "MODEL.META_ARCHITECTURE": "DCAC",
    "MODEL.BACKBONE.CLIP_FEATURE": "after",
    "MODEL.BACKBONE.FREEZE_PATCH_EMBED": True,
    "MODEL.PIXEL_MEAN": [127.5] * 3,
    "MODEL.PIXEL_STD": [127.5] * 3,
    "MODEL.LOSSES.NAME": ("CrossEntropyLoss",),
    "MODEL.LOSSES.CE.EPSILON": 0.1,
    "MODEL.LOSSES.PCL.SCALE": 1.0,
    "MODEL.LOSSES.PCL.TEMPERATURE": 0.01,
    "MODEL.LOSSES.PCL.MOMENTUM": 0.2,
    "MODEL.LOSSES.DIFF.SCALE": 1.0,
    "DCAC.CLASSIFIER_STD": 0.001,
    "DCAC.COND.SOURCE": "fc",
    "DCAC.LORA.ALPHA": 1.0,
    "DCAC.SD.IMAGE_SIZE": 128,
    "INPUT.SIZE_TRAIN": [256, 128],
    "INPUT.PADDING.SIZE": 10,
    "INPUT.REA.PROB": 0.5,
    "DATALOADER.NUM_INSTANCE": 4,
    "SOLVER.OPT": "Adam",
    "SOLVER.BASE_LR": 5e-6,
    "SOLVER.WEIGHT_DECAY": 1e-4,
    "SOLVER.WEIGHT_DECAY_NORM": 1e-4,
    "SOLVER.WEIGHT_DECAY_BIAS": 1e-4,
    "SOLVER.IMS_PER_BATCH": 64,
    "SOLVER.MAX_EPOCH": 60,
}
DCAC_DIFFER = {"market1501": (8, 0.6), "dukemtmc": (8, 0.6), "cuhk03": (8, 0.1), "msmt17": (32, 1.0)}
DCAC_DIFFER |= {f"multi_{name}": (32, 1.0) for name in DCAC_DIFFER}


@pytest.mark.parametrize("name", DCAC_DIFFER)
def test_the_recipes_of_dcac_have_its_values(name):
    rank, tau = DCAC_DIFFER[name]
    found = leaves(merged(ROOT / f"configs/DCAC/{name}.yml"))
    wanted = DCAC | {"DCAC.LORA.RANK": rank, "DCAC.COND.TAU": tau}
    assert {key: found[key] for key in wanted} == wanted
    sets = {"Market1501", "DukeMTMC", "MSMT17", "CUHK03_detected"}
    trained, tested = set(found["DATASETS.NAMES"]), set(found["DATASETS.TESTS"])
    assert trained | tested == sets and not trained & tested
    assert len(trained) == (3 if name.startswith("multi_") else 1)


def test_the_overlay_of_dcac_has_the_behaviour_of_its_release():
    recipe = ROOT / "configs/DCAC/market1501.yml"
    found, before = leaves(merged(recipe, ROOT / "configs/_base_/dcac_released.yml")), leaves(merged(recipe))
    changed = {"DCAC.NECK_PASSES": 2, "DCAC.LORA.RANDOM_BIAS": True, "INPUT.REA.VALUE": [191.25] * 3}
    assert {key: value for key, value in found.items() if value != before[key]} == changed
