"""The configs and scripts of the repository: they parse and have the published values."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from fastreid.config import refuse_unsupported
from fastreid.modeling import build_model
from tests.miniature import ROOT
from tests.recipes import CONFIGS, EPOCH_WARMUP, PAIRS, RECIPES, RELEASED, is_stage2, leaves, merged, name_of

SCRIPTS = sorted([*ROOT.glob("*.sh"), *ROOT.glob("go/*.sh"), ROOT / ".ci/run"])


# Every file


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_every_config_has_known_keys_that_this_version_honours_and_says_what_it_is_for(path):
    refuse_unsupported(merged(path))
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ") and len(first) > 20


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_every_script_is_valid_shell_and_can_be_run(path):
    checked = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    sourced = path.read_text().startswith("# shellcheck shell=bash\n# Sourced by ")
    assert sourced or (path.stat().st_mode & 0o111 and path.read_text().startswith("#!/usr/bin/env bash"))


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck_finds_nothing():
    checked = subprocess.run(["shellcheck", *SCRIPTS], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_runs_do_not_share_a_folder():
    folders = [merged(path).OUTPUT_DIR for path in RECIPES]
    assert all(folder.startswith("logs/") for folder in folders)
    assert [name_of(path) for path, folder in zip(RECIPES, folders, strict=True) if folders.count(folder) > 1] == []


def test_stage2_starts_from_the_stage1_beside_it():
    for path in RECIPES:
        cfg = merged(path)
        if is_stage2(cfg):
            folders = [merged(p).OUTPUT_DIR for p in path.parent.glob("*.yml")]
            assert str(Path(cfg.MODEL.WEIGHTS).parent) in folders


# Published values of the recipes in the SD-ReID release. Values that all six pairs have:

BOTH = {
    "MODEL.SDMODEL.MOMENTUM": 0.8,
    "MODEL.SEED": 1111,
    "MODEL.PIXEL_MEAN": [127.5] * 3,
    "MODEL.PIXEL_STD": [127.5] * 3,
    "MODEL.BACKBONE.DEPTH": "base",
    "MODEL.BACKBONE.STRIDE_SIZE": (16, 16),
    "MODEL.BACKBONE.DROP_PATH_RATIO": 0.1,
    "MODEL.HEADS.WITH_BNNECK": True,
    "INPUT.SIZE_TRAIN": [256, 128],
    "INPUT.SIZE_TEST": [256, 128],
    "INPUT.FLIP.ENABLED": True,
    "INPUT.FLIP.PROB": 0.5,
    "DATALOADER.SAMPLER_TRAIN": "NaiveIdentitySampler",
    "SOLVER.MAX_EPOCH": 120,
    "SOLVER.AMP.ENABLED": True,
    "SOLVER.WARMUP_METHOD": "linear",
    "SOLVER.WARMUP_FACTOR": 0.01,
}
STAGE1 = BOTH | {
    "MODEL.META_ARCHITECTURE": "SDReIDStage1",
    "MODEL.BACKBONE.PRETRAIN": True,
    "MODEL.BACKBONE.PRETRAIN_PATH": "pretrained/jx_vit_base_p16_224-80ecf9dd.pth",
    "MODEL.HEADS.NECK_FEAT": "before",
    "MODEL.LOSSES.NAME": ("CrossEntropyLoss", "TripletLoss"),
    "MODEL.LOSSES.CE.EPSILON": 0.0,
    "MODEL.LOSSES.TRI.MARGIN": 0.0,
    "MODEL.LOSSES.TRI.HARD_MINING": True,
    "MODEL.LOSSES.TRI.NORM_FEAT": False,
    "INPUT.PADDING.ENABLED": True,
    "INPUT.PADDING.SIZE": 10,
    "INPUT.REA.ENABLED": True,
    "INPUT.REA.PROB": 0.5,
    "SOLVER.OPT": "SGD",
    "SOLVER.BASE_LR": 0.008,
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.WEIGHT_DECAY": 1e-4,
    "SOLVER.SCHED": "CosineAnnealingLR",
    "SOLVER.ETA_MIN_LR": 1.6e-6,
    "SOLVER.WARMUP_ITERS": 2000,
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "norm",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 5.0,
}
STAGE2 = BOTH | {
    "MODEL.META_ARCHITECTURE": "SDReIDStage2",
    "MODEL.BACKBONE.PRETRAIN": False,
    "MODEL.SDMODEL.U_COND_PERCENT": 0.05,
    "MODEL.SDMODEL.SCHEDULER_CONFIG.NAME": "ddpm",
    "MODEL.SDMODEL.SCHEDULER_CONFIG.CUBIC_SAMPLING": True,
    "MODEL.SDMODEL.UNET_CONFIG.TRAIN": "cross_attention_kv",
    "MODEL.SDMODEL.UNET_CONFIG.TRAINABLE_BLOCK_IDX": [11, 10, 9, 8, 7, 6, 5, 4, 3],
    "MODEL.SDMODEL.CON_LEARNER_CONFIG.N_CTX": 12,
    "MODEL.SDMODEL.CON_LEARNER_CONFIG.OUT_CHANNELS": [320, 640, 1280, 320, 640, 1280],
    "INPUT.PADDING.ENABLED": False,
    "INPUT.REA.ENABLED": False,
    "SOLVER.OPT": "Adam",
    "SOLVER.BASE_LR": 1e-4,
    "SOLVER.WEIGHT_DECAY": 5e-4,
    "SOLVER.SCHED": "LinearWarmupMultiStepDecayLRScheduler",
    "SOLVER.DECAY_RATE": 0.1,
    "SOLVER.DECAY_EPOCHS": [50],
    "SOLVER.WARMUP_ITERS": 1000,
    "TEST.SDMODEL.INVERSE_TYPE": "uc_full",
    "TEST.SDMODEL.FULL_GUIDANCE_SCALE": 2.0,
}

# Values that differ: a column for each pair.
V2_TESTS = ("AG_ReID_v2_AC", "AG_ReID_v2_AW", "AG_ReID_v2_CA", "AG_ReID_v2_WA")
G2APS_TESTS = ("G2APS_ReID_A2G", "G2APS_ReID_G2A")
# fmt: off
DIFFER_BOTH = {
    "MODEL.SDMODEL.VIEW_NUM": (2, 2, 3, 2, 2, 2),
    "MODEL.LOSSES.CE.VIEW_LAMBDA": (0.001, 0.001, 0.001, 0.001, 1.0, 0.001),
    "DATALOADER.NUM_INSTANCE": (4, 4, 8, 8, 8, 4),
    "DATALOADER.NUM_WORKERS": (8, 8, 14, 14, 14, 8),
    "SOLVER.IMS_PER_BATCH": (128, 128, 256, 256, 256, 128),
    "DATASETS.NAMES": (("CARGO",), ("AG_ReID_v1",), ("AG_ReID_v2",), ("LAGPeR",), ("G2APS_ReID",), ("G2APS_ReID",)),
    "DATASETS.TESTS": (
        ("CARGO", "CARGO_GG", "CARGO_AA", "CARGO_AG"), ("AG_ReID_v1_AG", "AG_ReID_v1_GA"), V2_TESTS,
        ("LAGPeR_A2G", "LAGPeR_G2A", "LAGPeR_G2AG"), G2APS_TESTS, G2APS_TESTS,
    ),
}
LOGS = ("logs/cargo/", "logs/v1/", "logs/v2/", "logs/lagper/", "logs/g2aps/", "logs/g2aps128/")
DIFFER_STAGE1 = DIFFER_BOTH | {
    "SOLVER.CHECKPOINT_PERIOD": (20, 20, 5, 5, 5, 5),
    "TEST.EVAL_PERIOD": (20, 20, 5, 5, 5, 5),
    "TEST.IMS_PER_BATCH": (1024,) * 6,
    "OUTPUT_DIR": tuple(f"{folder}base_stage1_beta" for folder in LOGS),
}
DIFFER_STAGE2 = DIFFER_BOTH | {
    "MODEL.SDMODEL.TRAIN_STEP": (1000, 600, 800, 600, 600, 600),
    "MODEL.SDMODEL.CON_LEARNER_CONFIG.DEPTH": (1, 1, 2, 1, 1, 1),
    "TEST.SDMODEL.NUM_INFERENCE_STEPS": (5, 5, 10, 10, 10, 4),
    "SOLVER.CHECKPOINT_PERIOD": (5, 120, 120, 120, 120, 120),
    "TEST.EVAL_PERIOD": (100, 120, 120, 120, 120, 120),
    "TEST.IMS_PER_BATCH": (1024, 1024, 1024, 384, 1024, 1024),
    "MODEL.WEIGHTS": tuple(f"{folder}base_stage1_beta/model_best.pth" for folder in LOGS),
}
# fmt: on


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(
    ("stage", "common", "differ"),
    [(0, STAGE1, DIFFER_STAGE1), (1, STAGE2, DIFFER_STAGE2)],
    ids=["stage1", "stage2"],
)
def test_recipes_have_the_published_values(pair, stage, common, differ):
    path, column = ROOT / f"configs/{PAIRS[pair][stage]}.yml", list(PAIRS).index(pair)
    published = common | {key: values[column] for key, values in differ.items()}
    found = leaves(merged(path))
    assert {key: found[key] for key in published} == published
    assert len(path.read_text().splitlines()) <= 20  # a recipe has only its own keys


def test_every_view_is_generated_where_there_are_three():
    cfg = merged(ROOT / "configs/v2/base_stage2.yml")
    assert (cfg.MODEL.SDMODEL.VIEW_NUM, cfg.TEST.SDMODEL.NUM_VIEWS) == (3, 0)  # 0: all


# Published values of the recipes of fast-reid: all of bag of tricks, and the differences of the others.

BOT = {
    "MODEL.META_ARCHITECTURE": "Baseline",
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.BACKBONE.DEPTH": "50x",
    "MODEL.BACKBONE.LAST_STRIDE": 1,
    "MODEL.BACKBONE.WITH_IBN": False,
    "MODEL.BACKBONE.WITH_NL": False,
    "MODEL.BACKBONE.PRETRAIN": True,
    "MODEL.FREEZE_LAYERS": [],
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.HEADS.NAME": "EmbeddingHead",
    "MODEL.HEADS.WITH_BNNECK": True,
    "MODEL.HEADS.POOL_LAYER": "GlobalAvgPool",
    "MODEL.HEADS.NECK_FEAT": "before",
    "MODEL.HEADS.CLS_LAYER": "Linear",
    "MODEL.HEADS.SCALE": 1,
    "MODEL.HEADS.MARGIN": 0.0,
    "MODEL.HEADS.EMBEDDING_DIM": 0,
    "MODEL.LOSSES.NAME": ("CrossEntropyLoss", "TripletLoss"),
    "MODEL.LOSSES.CE.EPSILON": 0.1,
    "MODEL.LOSSES.TRI.MARGIN": 0.3,
    "MODEL.LOSSES.TRI.HARD_MINING": True,
    "INPUT.SIZE_TRAIN": [256, 128],
    "INPUT.SIZE_TEST": [256, 128],
    "INPUT.FLIP.ENABLED": True,
    "INPUT.PADDING.ENABLED": True,
    "INPUT.REA.ENABLED": True,
    "INPUT.AUTOAUG.ENABLED": False,
    "DATALOADER.SAMPLER_TRAIN": "NaiveIdentitySampler",
    "DATALOADER.NUM_INSTANCE": 4,
    "SOLVER.AMP.ENABLED": True,
    "SOLVER.OPT": "Adam",
    "SOLVER.BASE_LR": 3.5e-4,
    "SOLVER.IMS_PER_BATCH": 64,
    "SOLVER.MAX_EPOCH": 120,
    "SOLVER.SCHED": "MultiStepLR",
    "SOLVER.STEPS": [40, 90],
    "SOLVER.WARMUP_ITERS": 2000,
    "SOLVER.FREEZE_ITERS": 0,
    "SOLVER.CLIP_GRADIENTS.ENABLED": False,
    "SOLVER.CHECKPOINT_PERIOD": 30,
    "TEST.EVAL_PERIOD": 30,
}
AGW = BOT | {
    "MODEL.BACKBONE.WITH_NL": True,
    "MODEL.HEADS.POOL_LAYER": "GeneralizedMeanPooling",
    "MODEL.LOSSES.TRI.MARGIN": 0.0,
    "MODEL.LOSSES.TRI.HARD_MINING": False,
}
SBS = BOT | {
    "MODEL.FREEZE_LAYERS": ["backbone"],
    "MODEL.BACKBONE.WITH_NL": True,
    "MODEL.HEADS.POOL_LAYER": "GeneralizedMeanPoolingP",
    "MODEL.HEADS.NECK_FEAT": "after",
    "MODEL.HEADS.CLS_LAYER": "CircleSoftmax",
    "MODEL.HEADS.SCALE": 64,
    "MODEL.HEADS.MARGIN": 0.35,
    "MODEL.LOSSES.TRI.MARGIN": 0.0,
    "INPUT.SIZE_TRAIN": [384, 128],
    "INPUT.SIZE_TEST": [384, 128],
    "INPUT.AUTOAUG.ENABLED": True,
    "INPUT.AUTOAUG.PROB": 0.1,
    "DATALOADER.NUM_INSTANCE": 16,
    "SOLVER.MAX_EPOCH": 60,
    "SOLVER.SCHED": "CosineAnnealingLR",
    "SOLVER.DELAY_EPOCHS": 30,
    "SOLVER.FREEZE_ITERS": 1000,
    "SOLVER.CHECKPOINT_PERIOD": 20,
    "TEST.EVAL_PERIOD": 10,
}
MGN = SBS | {
    "MODEL.META_ARCHITECTURE": "MGN",
    "MODEL.FREEZE_LAYERS": ["backbone", "b1", "b2", "b3"],
    "MODEL.BACKBONE.WITH_NL": False,
    "MODEL.HEADS.EMBEDDING_DIM": 256,
}
VIT = BOT | {
    "MODEL.BACKBONE.NAME": "build_vit_backbone",
    "MODEL.BACKBONE.DEPTH": "base",
    "MODEL.PIXEL_MEAN": [127.5] * 3,
    "MODEL.HEADS.POOL_LAYER": "Identity",
    "MODEL.LOSSES.CE.EPSILON": 0.0,
    "MODEL.LOSSES.TRI.MARGIN": 0.0,
    "SOLVER.AMP.ENABLED": False,
    "SOLVER.OPT": "SGD",
    "SOLVER.BASE_LR": 0.008,
    "SOLVER.SCHED": "CosineAnnealingLR",
    "SOLVER.WARMUP_ITERS": 1000,
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "TEST.EVAL_PERIOD": 5,
}
IBN = {"MODEL.BACKBONE.WITH_IBN": True}
FAST_REID = {
    "bagtricks_R50": BOT,
    "bagtricks_R50-ibn": BOT | IBN,
    "AGW_R50": AGW,
    "sbs_R50": SBS,
    "mgn_R50-ibn": MGN | IBN,
    "bagtricks_vit": VIT,
}


@pytest.mark.parametrize("benchmark", ["Market1501", "MSMT17"])
@pytest.mark.parametrize("recipe", FAST_REID)
def test_fast_reids_recipes_have_the_published_values(recipe, benchmark):
    path = ROOT / f"configs/{benchmark}/{recipe}.yml"
    found = leaves(merged(path))
    assert {key: found[key] for key in FAST_REID[recipe]} == FAST_REID[recipe]
    assert found["DATASETS.NAMES"] == found["DATASETS.TESTS"] == (benchmark,)
    assert len(path.read_text().splitlines()) <= 20


# Values of CLIP-ReID's second stage.
CLIP = BOT | {
    "MODEL.BACKBONE.NAME": "build_clip_backbone",
    "MODEL.BACKBONE.DEPTH": "base",
    "MODEL.BACKBONE.CLIP_FEATURE": "both",
    "MODEL.BACKBONE.DROP_PATH_RATIO": 0.0,
    "MODEL.PIXEL_MEAN": [127.5] * 3,
    "MODEL.PIXEL_STD": [127.5] * 3,
    "MODEL.HEADS.POOL_LAYER": "Identity",
    "MODEL.LOSSES.CE.SCALE": 0.25,
    "SOLVER.BASE_LR": 5e-6,
    "SOLVER.BIAS_LR_FACTOR": 2.0,
    "SOLVER.WEIGHT_DECAY": 1e-4,
    "SOLVER.WEIGHT_DECAY_BIAS": 1e-4,
    "SOLVER.MAX_EPOCH": 60,
    **EPOCH_WARMUP,
}
del CLIP["SOLVER.CHECKPOINT_PERIOD"], CLIP["TEST.EVAL_PERIOD"]


def test_the_clip_recipe_has_the_values_of_clip_reid():
    found = leaves(merged(ROOT / "configs/Market1501/clip_vit.yml"))
    assert {key: found[key] for key in CLIP} == CLIP


@pytest.mark.parametrize("stage", [1, 2])
def test_sd_reid_on_clip_differs_from_the_published_recipe_by_the_backbone_and_its_rate(stage):
    published = "base_stage1" if stage == 1 else "base_stage2_step5"
    own, theirs = (leaves(merged(ROOT / f"configs/CARGO/{name}.yml")) for name in (f"clip_stage{stage}", published))
    differ = {key for key in own if own[key] != theirs[key]} - {"OUTPUT_DIR"}
    backbone = {"MODEL.BACKBONE.NAME", "MODEL.BACKBONE.CLIP_FEATURE"}
    rate = {"MODEL.BACKBONE.PRETRAIN_PATH", "SOLVER.OPT", "SOLVER.BASE_LR", "SOLVER.ETA_MIN_LR"}
    assert differ == backbone | (rate if stage == 1 else {"MODEL.WEIGHTS"})


SWIN = ["MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.BACKBONE.TIMM_NAME", "swin_tiny_patch4_window7_224"]
SWIN += ["MODEL.BACKBONE.WITH_NL", False, "MODEL.BACKBONE.WITH_IBN", False]
WITH_SWIN = ["bagtricks_R50", "AGW_R50", "sbs_R50", "mgn_R50-ibn"]


@pytest.mark.parametrize(
    ("recipe", "options"), [*((name, []) for name in [*FAST_REID, "clip_vit"]), *((name, SWIN) for name in WITH_SWIN)]
)
def test_every_parameter_of_a_recipe_that_trains_gets_a_gradient(recipe, options):
    cfg = merged(ROOT / f"configs/Market1501/{recipe}.yml")
    sizes = ["INPUT.SIZE_TRAIN", [96, 48], "INPUT.SIZE_TEST", [96, 48]]
    cfg.merge_from_list([*sizes, "MODEL.BACKBONE.PRETRAIN", False, "MODEL.DEVICE", "cpu", *options])
    torch.manual_seed(0)
    model = build_model(cfg, num_classes=2).train()
    losses = model({"images": torch.rand(4, 3, 96, 48) * 255, "targets": torch.tensor([0, 0, 1, 1])})
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    # With several processes, training would hang at a parameter without a gradient.
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


# The overlay: the value of each key in the release, and whether the method as described has another one.

RELEASED_FIELDS = {
    "TEST.SDMODEL.CONTROL_STEPS": ("fading", "differs"),  # B1
    "MODEL.SDMODEL.VIEW_CONTROL": ("down", "differs"),  # B2
    "MODEL.SDMODEL.NULL_CONDITION": ("zeros", "differs"),  # B3
    "MODEL.SDMODEL.U_COND_DOWN_BLOCK_GUIDANCE": (False, "may be equal"),  # B4, a design choice
    "MODEL.SDMODEL.U_COND_UP_BLOCK_GUIDANCE": (False, "may be equal"),
    "MODEL.SDMODEL.VIEW_CENTRE_PERCENT": (0.0, "differs"),  # B5
    "TEST.SDMODEL.NUM_VIEWS": (2, "differs"),  # B6
    "TEST.SDMODEL.NOISE": ("fresh", "differs"),  # B10, B11
    "MODEL.SDMODEL.SCHEDULER_CONFIG.TIMESTEP_SPACING": ("leading", "differs"),  # B13
    # Choices of the release that are not errors.
    "MODEL.SDMODEL.DENOISER": ("unet", "may be equal"),
    "MODEL.SDMODEL.TARGET": ("own", "may be equal"),
    "MODEL.SDMODEL.WHITEN_LATENT": (False, "may be equal"),
    "MODEL.SDMODEL.OWN_VIEW_CONDITION": (False, "may be equal"),
    "MODEL.SDMODEL.STANDARDIZE_LATENT": (False, "may be equal"),
    "MODEL.SDMODEL.MID_RESIDUAL": ("zero", "may be equal"),
    "MODEL.SDMODEL.PREDICTION_TYPE": ("epsilon", "may be equal"),
    "MODEL.SDMODEL.SCHEDULER_CONFIG.NAME": ("ddpm", "may be equal"),
    "MODEL.SDMODEL.SCHEDULER_CONFIG.CUBIC_SAMPLING": (True, "may be equal"),
    "MODEL.SDMODEL.CONDITION_NOISE": (0.0, "may be equal"),
    "TEST.SDMODEL.INVERSE_TYPE": ("uc_full", "may be equal"),
    "TEST.SDMODEL.FULL_GUIDANCE_SCALE": (2.0, "may be equal"),
    "TEST.SDMODEL.NUM_DRAWS": (1, "may be equal"),
    "TEST.SDMODEL.FUSION": ("concat", "may be equal"),
    "TEST.SDMODEL.PARTS": (("person", "generated"), "may be equal"),
    "TEST.SDMODEL.GENERATED_SPACE": ("feature", "may be equal"),
    "TEST.SDMODEL.GENERATED_NECK": (False, "may be equal"),
}


@pytest.mark.parametrize("recipe", [p for p in RECIPES if is_stage2(merged(p))], ids=name_of)
def test_the_overlay_gives_every_stage2_the_released_behaviour(recipe):
    described, released = leaves(merged(recipe)), leaves(merged(recipe, RELEASED))
    assert {key: released[key] for key in RELEASED_FIELDS} == {key: v for key, (v, _) in RELEASED_FIELDS.items()}
    different = {key for key, (_, kind) in RELEASED_FIELDS.items() if kind == "differs"}
    assert different <= {key for key in released if released[key] != described[key]}


def test_the_overlay_names_its_differences():
    text = (ROOT / "fastreid/methods/sd_reid/released.yml").read_text()
    assert [number for number in (1, 2, 3, 4, 5, 6, 10, 11, 13) if f"B{number}" not in text] == []
