"""Keys that were set but are not read because of other keys; they are logged in one line.

Setting an option of a part that is not chosen is not an error, as files inherit many keys. But REA.PROB without
REA.ENABLED, or NUM_INSTANCE with a sampler that does not use it, may be a mistake that wastes a training.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fastreid.config.config import CfgNode
from fastreid.config.method_config import MethodConfig, methods
from fastreid.config.tree import leaves

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unread:
    """Keys, or groups of them, and when they are not read.

    Args:
        keys: full names.
        when: whether they are not read with a config. User-defined parts may read any key, so it is False for them.
        because: the key that decides it; it is shown with its value.
    """

    keys: tuple[str, ...]
    when: Callable[[CfgNode], bool]
    because: str


def _reads_losses(cfg: CfgNode) -> bool:
    """Whether the model is one of the library that reads the keys of the losses in MODEL.LOSSES.NAME."""
    return any(cfg.MODEL.META_ARCHITECTURE in method.loss_models for method in methods())


def _of_method(method: MethodConfig) -> Unread:
    """The keys of a method: other models of the library do not read them."""
    others = {model for other in methods() for model in other.models} - set(method.models)
    return Unread(tuple(method.keys), lambda cfg: cfg.MODEL.META_ARCHITECTURE in others, "MODEL.META_ARCHITECTURE")


def _of_loss(name: str, group: str) -> Unread:
    return Unread(
        (f"MODEL.LOSSES.{group}",),
        lambda cfg: _reads_losses(cfg) and name not in cfg.MODEL.LOSSES.NAME,
        "MODEL.LOSSES.NAME",
    )


_SCHEDULES_BY_ITERATION = ("MultiStepLR", "CosineAnnealingLR", "LinearLR", "LinearWarmupMultiStepDecayLRScheduler")


def _of_schedule(name: str, *keys: str) -> Unread:
    return Unread(tuple(f"SOLVER.{key}" for key in keys), lambda cfg: name == cfg.SOLVER.SCHED, "SOLVER.SCHED")


def _is_of_torch(optimizer: str) -> bool:
    import torch

    return hasattr(torch.optim, optimizer)


_WITHOUT_NON_LOCAL = tuple(
    f"build_{kind}_backbone"
    for kind in ("resnest", "osnet", "mobilenetv2", "mobilenetv3", "shufflenetv2", "repvgg", "regnet", "effnet")
)
_WITHOUT_LAST_STRIDE = tuple(f"build_{kind}_backbone" for kind in ("mobilenetv2", "osnet", "shufflenetv2"))

TABLE = (
    Unread(
        ("MODEL.BACKBONE.PRETRAIN_PATH", "MODEL.BACKBONE.PRETRAIN_MIN_COVERAGE"),
        lambda cfg: not cfg.MODEL.BACKBONE.PRETRAIN and not cfg.MODEL.WEIGHTS,
        "MODEL.BACKBONE.PRETRAIN",
    ),
    # As in fast-reid, these sizes have no such blocks.
    Unread(
        ("MODEL.BACKBONE.WITH_NL",),
        lambda cfg: cfg.MODEL.BACKBONE.NAME == "build_resnet_backbone" and cfg.MODEL.BACKBONE.DEPTH in ("18x", "34x"),
        "MODEL.BACKBONE.DEPTH",
    ),
    # Recipes such as Base-SBS.yml set it for every backbone; fast-reid's builders of these do not read it.
    Unread(
        ("MODEL.BACKBONE.WITH_NL",),
        lambda cfg: cfg.MODEL.BACKBONE.NAME in _WITHOUT_NON_LOCAL,
        "MODEL.BACKBONE.NAME",
    ),
    Unread(
        ("MODEL.BACKBONE.LAST_STRIDE",),
        lambda cfg: cfg.MODEL.BACKBONE.NAME in _WITHOUT_LAST_STRIDE,
        "MODEL.BACKBONE.NAME",
    ),
    Unread(
        ("MODEL.HEADS.NORM", "MODEL.HEADS.NORM_SPLIT"),
        lambda cfg: cfg.MODEL.HEADS.NAME in ("EmbeddingHead", "ClasHead") and not cfg.MODEL.HEADS.WITH_BNNECK,
        "MODEL.HEADS.WITH_BNNECK",
    ),
    _of_loss("CrossEntropyLoss", "CE"),
    _of_loss("FocalLoss", "FL"),
    _of_loss("TripletLoss", "TRI"),
    _of_loss("CircleLoss", "CIRCLE"),
    _of_loss("Cosface", "COSFACE"),
    _of_loss("CenterLoss", "CENTER"),
    Unread(
        ("MODEL.LOSSES.CE.ALPHA",),
        lambda cfg: _reads_losses(cfg) and cfg.MODEL.LOSSES.CE.EPSILON >= 0,
        "MODEL.LOSSES.CE.EPSILON",
    ),
    Unread(
        ("MODEL.LOSSES.TRI.EXACT_SOFTMAX",),
        lambda cfg: _reads_losses(cfg) and cfg.MODEL.LOSSES.TRI.HARD_MINING,
        "MODEL.LOSSES.TRI.HARD_MINING",
    ),
    *(_of_method(method) for method in methods() if method.keys),
    Unread(
        ("DATASETS.SUBSET.RATIO", "DATASETS.SUBSET.SEED"),
        lambda cfg: cfg.DATASETS.SUBSET.MODE == "none",
        "DATASETS.SUBSET.MODE",
    ),
    Unread(("CLUSTER.EPS",), lambda cfg: cfg.CLUSTER.METHOD == "hdbscan", "CLUSTER.METHOD"),
    Unread(
        ("DATALOADER.NUM_INSTANCE",),
        lambda cfg: cfg.DATALOADER.SAMPLER_TRAIN in ("TrainingSampler", "ImbalancedDatasetSampler"),
        "DATALOADER.SAMPLER_TRAIN",
    ),
    Unread(
        ("DATASETS.EXCLUDE_SOURCES",),
        # The stages of Diffusion-ReID read it, and a user-defined data set may.
        lambda cfg: (
            "DiffPerson" not in cfg.DATASETS.NAMES
            and cfg.MODEL.META_ARCHITECTURE != "DiffusionReID"
            and not cfg.IMPORTS
        ),
        "DATASETS.NAMES",
    ),
    Unread(
        ("SOLVER.MOMENTUM", "SOLVER.NESTEROV"),
        lambda cfg: cfg.SOLVER.OPT != "SGD" and _is_of_torch(cfg.SOLVER.OPT),
        "SOLVER.OPT",
    ),
    Unread(("SOLVER.BASE_LR",), lambda cfg: cfg.SOLVER.OVERRIDE_LR > 0, "SOLVER.OVERRIDE_LR"),
    _of_schedule("MultiStepLR", "ETA_MIN_LR", "DECAY_RATE", "DECAY_EPOCHS"),
    _of_schedule("EpochWarmupMultiStepLR", "ETA_MIN_LR", "DECAY_RATE", "DECAY_EPOCHS", "DELAY_EPOCHS"),
    Unread(
        ("SOLVER.WARMUP_EPOCHS",),
        lambda cfg: cfg.SOLVER.SCHED in _SCHEDULES_BY_ITERATION,
        "SOLVER.SCHED",
    ),
    # And STEPS of CosineAnnealingLR, which fast-reid's recipes with it inherit.
    _of_schedule("CosineAnnealingLR", "GAMMA", "DECAY_RATE", "DECAY_EPOCHS"),
    _of_schedule("EpochWarmupCosineLR", "STEPS", "GAMMA", "DECAY_RATE", "DECAY_EPOCHS"),
    _of_schedule("LinearLR", "STEPS", "GAMMA", "DECAY_RATE", "DECAY_EPOCHS"),
    _of_schedule("LinearWarmupMultiStepDecayLRScheduler", "STEPS", "GAMMA", "DELAY_EPOCHS", "ETA_MIN_LR"),
    Unread(("SOLVER.WARMUP_ITERS",), lambda cfg: cfg.SOLVER.WARMUP_SHARE > 0, "SOLVER.WARMUP_SHARE"),
    Unread(("SOLVER.STEPS",), lambda cfg: bool(cfg.SOLVER.STEP_SHARES), "SOLVER.STEP_SHARES"),
    Unread(
        ("SOLVER.WARMUP_FACTOR", "SOLVER.WARMUP_METHOD"),
        lambda cfg: (
            max(cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.WARMUP_SHARE) <= 0 and cfg.SOLVER.SCHED in _SCHEDULES_BY_ITERATION
        ),
        "SOLVER.WARMUP_ITERS",
    ),
    Unread(
        ("SOLVER.CLIP_GRADIENTS.NORM_TYPE",),
        lambda cfg: cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE == "value",
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE",
    ),
)


def log_unread(cfg: CfgNode) -> None:
    """Log in one line all keys that were changed from their defaults and will not be read, if there are any.

    Args:
        cfg: the config.
    """
    if found := sorted(_found(cfg)):
        logger.warning("set, but nothing reads it: %s", "; ".join(found))


def _found(cfg: CfgNode) -> Iterator[str]:
    from fastreid.config.defaults import _C

    values, defaults = dict(leaves(cfg)), dict(leaves(_C))
    for key in defaults:
        if values.get(key, defaults[key]) == defaults[key]:  # a tree made before `add_section` lacks the key
            continue
        switches = [f"{key.rpartition('.')[0]}.ENABLED", *([] if key != "SOLVER.AMP.DTYPE" else ["TEST.AMP.ENABLED"])]
        if key not in switches and not any(values.get(switch, True) for switch in switches):
            yield f"{key} ({switches[0]} is False)"
        for row in TABLE:
            if any(f"{key}.".startswith(f"{name}.") for name in row.keys) and row.when(cfg):
                yield f"{key} ({row.because} is {values[row.because]})"
