"""Loads a trained model from its checkpoint, by the config that its run has written beside it."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from fastreid.config import CfgNode, ConfigError, get_cfg, with_values
from fastreid.modeling.model import build_model, evaluation_config_of
from fastreid.utils.checkpoint import load_weights

CONFIG = "config.yaml"


def load_trained(checkpoint: str, *, key: str = "", device: str = "cpu") -> tuple[nn.Module, CfgNode]:
    """Return the model of a checkpoint in eval mode, without gradients, and the config of its run.

    Args:
        checkpoint: a checkpoint in the folder of its run, which has config.yaml.
        key: config key that names the checkpoint, for error messages.
        device: where the model is put.

    Raises:
        ConfigError: no such file, or no config.yaml beside it.
        WeightsError: the checkpoint is damaged or of another model.
    """
    path = Path(checkpoint).expanduser()
    named = f"{key} {str(path)!r}" if key else str(path)
    if not checkpoint or not path.is_file():
        raise ConfigError(f"{named}: there is no such checkpoint")
    if not (path.parent / CONFIG).is_file():
        raise ConfigError(
            f"{named}: there is no {CONFIG} beside it, which says what model it is of. Copy the one of its run there"
        )
    cfg = get_cfg()
    cfg.merge_from_file(str(path.parent / CONFIG))
    cfg = with_values(cfg, {"MODEL.WEIGHTS": str(path), "MODEL.DEVICE": device})
    built = evaluation_config_of(cfg)
    model = build_model(built, num_classes=built.MODEL.HEADS.NUM_CLASSES or 1)
    load_weights(model, str(path), to_evaluate=True, min_coverage=cfg.MODEL.BACKBONE.PRETRAIN_MIN_COVERAGE)
    return model.eval().requires_grad_(False), cfg
