"""Teachers: trained models from checkpoints, frozen and in eval mode."""

from __future__ import annotations

import logging
from typing import cast

import torch
from torch import Tensor, nn

from fastreid.config import CfgNode, ConfigError, with_values
from fastreid.methods.baseline.baseline import Baseline
from fastreid.modeling.heads import EmbeddingHead
from fastreid.modeling.trained import load_trained, trained_config
from fastreid.utils.checkpoint_file import read_checkpoint, state_dict_in

logger = logging.getLogger(__name__)

_WEIGHTS, _CONFIG = "KD.MODEL_WEIGHTS", "KD.MODEL_CONFIG"
_CLASSIFIER = "heads.weight"
_STUDENTS = ("Baseline", "Distiller", "DistillerOverhaul")
# Keys that say who the classes are.
_PEOPLE = ("NAMES", "COMBINEALL", "PEOPLE", "SUBSET")


def load_teachers(cfg: CfgNode) -> list[Baseline]:
    """Return the teachers of a config, on the CPU.

    Args:
        cfg: the config of the student.

    Raises:
        ConfigError: another number of configs than of checkpoints, no such file, a model that is no Baseline, or a
            teacher of another number of classes.
        WeightsError: a checkpoint is damaged, or of another model than its config says.
    """
    weights, configs = list(cfg.KD.MODEL_WEIGHTS), list(cfg.KD.MODEL_CONFIG)
    if configs and len(configs) != len(weights):
        raise ConfigError(
            f"{_CONFIG} has {len(configs)} files and {_WEIGHTS} has {len(weights)}: give one config for each "
            "checkpoint, or none if the checkpoints carry their configs"
        )
    return [_load(cfg, path, config) for path, config in zip(weights, configs or [None] * len(weights), strict=True)]


def _load(student: CfgNode, path: str, config: str | None) -> Baseline:
    cfg = trained_config(path, config=config, key=_WEIGHTS)
    if cfg.MODEL.META_ARCHITECTURE not in _STUDENTS:
        raise ConfigError(
            f"the teacher {path} is a {cfg.MODEL.META_ARCHITECTURE}, but a teacher must be one of "
            f"{', '.join(_STUDENTS)}"
        )
    classes = _number_of_classes(path)
    values = {
        "MODEL.META_ARCHITECTURE": "Baseline",
        "MODEL.HEADS.NUM_CLASSES": classes,
        "MODEL.LOSSES.NAME": ("CrossEntropyLoss",),
    }
    model, _ = load_trained(path, config=with_values(cfg, values), key=_WEIGHTS)
    teacher = cast(Baseline, model)
    require_logits(teacher.heads, f"teacher {path}")
    own = student.MODEL.HEADS.NUM_CLASSES
    if classes != own:
        raise ConfigError(
            f"the teacher {path} has {classes} classes and the student {own}: logits of other people cannot be "
            "compared. Train both on the same DATASETS.NAMES"
        )
    if config is None:
        _warn_of_other_people(student, cfg, path)
    return teacher


def require_logits(heads: nn.Module, whose: str) -> EmbeddingHead:
    """Return a head as the `EmbeddingHead` that it is, which gives logits.

    Args:
        heads: the head.
        whose: whose head it is, for the message.

    Raises:
        ConfigError: it is another head.
    """
    if not isinstance(heads, EmbeddingHead):
        raise ConfigError(f"distillation needs an EmbeddingHead or ClasHead; the {whose} has a {type(heads).__name__}")
    return heads


def _number_of_classes(path: str) -> int:
    """The number of classes in a checkpoint.

    Raises:
        ConfigError: it has no classifier of `EmbeddingHead`.
    """
    state = state_dict_in(read_checkpoint(path), path)
    found = [value for name, value in state.items() if name.removeprefix("module.") == _CLASSIFIER]
    if not found or not len(found[0]):
        raise ConfigError(f"the teacher {path} has no classifier ({_CLASSIFIER}), so it gives no logits")
    return len(found[0])


def _warn_of_other_people(student: CfgNode, teacher: CfgNode, path: str) -> None:
    """Log that the classes of student and teacher may be other people, though their number is the same."""
    for key in _PEOPLE:
        own, other = student.DATASETS[key], teacher.DATASETS[key]
        if own != other:
            logger.warning(
                "the teacher %s was trained with DATASETS.%s %s, and here it is %s: class k of both must be the same "
                "person", path, key, other, own,
            )  # fmt: skip


def logits_of(teacher: Baseline, maps: Tensor) -> Tensor:
    """Return the logits [B, C] of a teacher in eval mode, without margins.

    Args:
        teacher: the teacher.
        maps: maps [B, C, h, w] of its backbone.
    """
    heads = cast(EmbeddingHead, teacher.heads)
    neck = heads.embed(maps)[1]
    with torch.autocast(maps.device.type, enabled=False):
        return heads.cls_layer.s * heads.logits(neck.float())
