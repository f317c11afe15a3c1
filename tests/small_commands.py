"""What commands of the documentation need to run on a few people: small data, checkpoints and config keys."""

from pathlib import Path

import torch

from fastreid.modeling import build_model
from fastreid.modeling.backbones import build_backbone
from fastreid.modeling.model import evaluation_config_of
from fastreid.rendering import render_benchmark
from tests.miniature import FEW_STEPS, PEOPLE, ROOT, Scratch
from tests.recipes import TINY_MODEL, asset_keys, merged, save_model

SMALL_RESNET = ["MODEL.BACKBONE.DEPTH", "18x", "MODEL.BACKBONE.FEAT_DIM", "512"]


def small_dcac(words: tuple[str, ...], scratch: Scratch) -> list[str]:
    """Write a small checkpoint to MODEL.WEIGHTS, and return keys with which it is evaluated on a few people."""
    render_benchmark(scratch.folder / "datasets/people", "DukeMTMC", **PEOPLE)
    keys = ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.DEPTH", "mini", "MODEL.BACKBONE.FEAT_DIM", "128"]
    recipe = ROOT / words[words.index("--config-file") + 1]
    save_for_evaluation(recipe, scratch.folder / words[words.index("MODEL.WEIGHTS") + 1], keys)
    return [*keys, "DATASETS.ROOT", "datasets/people"]


def small_pisl(words: tuple[str, ...], scratch: Scratch) -> list[str]:
    """Return keys with which a small PISL runs on a few people; write its checkpoint if one is evaluated."""
    for name in ("Market1501", "MSMT17", "VeRi"):
        render_benchmark(scratch.folder / "datasets/unlabelled", name, workers=1, **PEOPLE)
    keys = ["MODEL.BACKBONE.PRETRAIN", "False", *SMALL_RESNET, "PISL.SDM.LOC_CHANNELS", "8", *FEW_STEPS]
    for option in {"MODEL.WEIGHTS", "--evaluate"} & set(words):
        path = scratch.folder / words[words.index(option) + 1]
        save_for_evaluation(ROOT / "configs/PISL/market1501.yml", path, keys)
    return [*keys, "DATASETS.ROOT", "datasets/unlabelled"]


def small_transfer(words: tuple[str, ...], scratch: Scratch) -> list[str]:
    """Write small backbones to the files of the command, and return keys with which it runs on a few people."""
    for path in (word.partition("=")[2] for word in words if word.endswith(".pth")):
        write_backbone(scratch.folder / path)
    return small_resnet(scratch)


def small_pretraining(words: tuple[str, ...], scratch: Scratch) -> list[str]:
    """Return keys with which a small ResNet is pre-trained on a few people, or starts from a small backbone."""
    if "MODEL.BACKBONE.PRETRAIN_PATH" in words:
        write_backbone(scratch.folder / words[words.index("MODEL.BACKBONE.PRETRAIN_PATH") + 1])
        return small_resnet(scratch)
    return [*small_resnet(scratch), "DATASETS.NAMES", "['Market1501']"]


def small_resnet(scratch: Scratch) -> list[str]:
    """Return keys with which a small ResNet trains on a few people of two rendered benchmarks."""
    for name in ("Market1501", "MSMT17"):
        render_benchmark(scratch.folder / "datasets/unlabelled", name, workers=1, **PEOPLE)
    return [*SMALL_RESNET, "MODEL.DEVICE", "cpu", "DATASETS.ROOT", "datasets/unlabelled"]


def write_backbone(path: Path, prefix: str = "") -> None:
    """Write an untrained small ResNet; with the prefix "backbone." as in a checkpoint of a whole model."""
    cfg = merged(ROOT / "configs/Base-AGW.yml")
    cfg.merge_from_list([*SMALL_RESNET, "MODEL.BACKBONE.PRETRAIN", "False"])
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({f"{prefix}{name}": value for name, value in build_backbone(cfg).state_dict().items()}, path)


def save_for_evaluation(recipe: Path, path: Path, keys: list[str]) -> None:
    """Write a checkpoint of the part of an untrained model that evaluation reads."""
    cfg = merged(recipe)
    cfg.merge_from_list(keys)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": build_model(evaluation_config_of(cfg), num_classes=8).state_dict()}, path)


def unless_given(flag: str, words: tuple[str, ...]) -> list[str]:
    return [] if {flag, "--eval-only", "--evaluate"} & set(words) else [flag]


def small_cargo(words: tuple[str, ...], scratch: Scratch) -> list[str]:
    """Return keys with which a command on CARGO runs on twelve people, with a small ViT and the tiny UNet."""
    keys = ["DATASETS.ROOT", "datasets/quickstart", "MODEL.BACKBONE.PRETRAIN", "False"]
    if not any("stage2" in word for word in words):
        return [*keys, "MODEL.BACKBONE.DEPTH", "mini", "MODEL.BACKBONE.FEAT_DIM", "192"]
    keys += [*TINY_MODEL, *asset_keys(scratch.folder / "pretrained/random-tiny")]
    recipe, path = ROOT / "configs/CARGO/base_stage2_step5.yml", scratch.folder / "small.pth"
    stage = "SDReIDStage2" if "--eval-only" in words else "SDReIDStage1"
    return [*keys, *save_model(stage, recipe, path, *keys)]
