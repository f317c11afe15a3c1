"""Keys that were set, and that nothing reads because of what else is chosen: they are told, in one line.

An option of what is not chosen is no mistake in itself, as files inherit many. But REA.PROB without REA.ENABLED, or
NUM_INSTANCE with a sampler that knows no people, may be one that costs a training.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fastreid.config.config import CfgNode
from fastreid.config.tree import leaves

logger = logging.getLogger(__name__)

_OURS = ("Baseline", "MGN", "SDReIDStage1")  # stage 2 is given the keys of the stage 1 that it starts from


@dataclass(frozen=True)
class Unread:
    """Keys, or groups of them, and when nothing reads them.

    Attributes:
        keys: full names.
        when: of a config; a part of somebody's own may read anything, and is not spoken of.
        because: the keys that decide it; they are shown with their values.
    """

    keys: tuple[str, ...]
    when: Callable[[CfgNode], bool]
    because: str


def _of_loss(name: str, group: str) -> Unread:
    return Unread(
        (f"MODEL.LOSSES.{group}",),
        lambda cfg: cfg.MODEL.META_ARCHITECTURE in _OURS and name not in cfg.MODEL.LOSSES.NAME,
        "MODEL.LOSSES.NAME",
    )


def _of_schedule(name: str, *keys: str) -> Unread:
    return Unread(tuple(f"SOLVER.{key}" for key in keys), lambda cfg: name == cfg.SOLVER.SCHED, "SOLVER.SCHED")


def _is_of_torch(optimizer: str) -> bool:
    import torch

    return hasattr(torch.optim, optimizer)


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
        lambda cfg: cfg.MODEL.META_ARCHITECTURE in _OURS and cfg.MODEL.LOSSES.CE.EPSILON >= 0,
        "MODEL.LOSSES.CE.EPSILON",
    ),
    Unread(
        ("MODEL.LOSSES.CE.VIEW_ID", "MODEL.LOSSES.CE.VIEW_LAMBDA", "MODEL.SDMODEL", "TEST.SDMODEL"),
        lambda cfg: cfg.MODEL.META_ARCHITECTURE in ("Baseline", "MGN"),
        "MODEL.META_ARCHITECTURE",
    ),
    Unread(
        ("DATALOADER.NUM_INSTANCE",),
        lambda cfg: cfg.DATALOADER.SAMPLER_TRAIN in ("TrainingSampler", "ImbalancedDatasetSampler"),
        "DATALOADER.SAMPLER_TRAIN",
    ),
    Unread(
        ("SOLVER.MOMENTUM", "SOLVER.NESTEROV"),
        lambda cfg: cfg.SOLVER.OPT != "SGD" and _is_of_torch(cfg.SOLVER.OPT),
        "SOLVER.OPT",
    ),
    Unread(("SOLVER.BASE_LR",), lambda cfg: cfg.SOLVER.OVERRIDE_LR > 0, "SOLVER.OVERRIDE_LR"),
    _of_schedule("MultiStepLR", "ETA_MIN_LR", "DECAY_RATE", "DECAY_EPOCHS"),
    # And STEPS, which fast-reid's recipes with this schedule inherit.
    _of_schedule("CosineAnnealingLR", "GAMMA", "DECAY_RATE", "DECAY_EPOCHS"),
    _of_schedule("LinearLR", "STEPS", "GAMMA", "DECAY_RATE", "DECAY_EPOCHS"),
    _of_schedule("LinearWarmupMultiStepDecayLRScheduler", "STEPS", "GAMMA", "DELAY_EPOCHS", "ETA_MIN_LR"),
    Unread(
        ("SOLVER.WARMUP_FACTOR", "SOLVER.WARMUP_METHOD"),
        lambda cfg: cfg.SOLVER.WARMUP_ITERS <= 0,
        "SOLVER.WARMUP_ITERS",
    ),
    Unread(
        ("SOLVER.CLIP_GRADIENTS.NORM_TYPE",),
        lambda cfg: cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE == "value",
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE",
    ),
)


def tell_unread(cfg: CfgNode) -> None:
    """Log one line with all keys that were changed from their defaults and that nothing will read, if there are any."""
    if found := sorted(_found(cfg)):
        logger.warning("set, but nothing reads it: %s", "; ".join(found))


def _found(cfg: CfgNode) -> Iterator[str]:
    from fastreid.config.defaults import _C

    values, defaults = dict(leaves(cfg)), dict(leaves(_C))
    for key in defaults:
        if values[key] == defaults[key]:
            continue
        switches = [f"{key.rpartition('.')[0]}.ENABLED", *([] if key != "SOLVER.AMP.DTYPE" else ["TEST.AMP.ENABLED"])]
        if key not in switches and not any(values.get(switch, True) for switch in switches):
            yield f"{key} ({switches[0]} is False)"
        for row in TABLE:
            if any(f"{key}.".startswith(f"{name}.") for name in row.keys) and row.when(cfg):
                yield f"{key} ({row.because} is {values[row.because]})"
