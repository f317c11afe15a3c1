"""Loading trained models: the config that a checkpoint carries, and the model that it is of."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastreid.config import CfgNode, ConfigError, check_ranges, get_cfg, resolve_device, value_of, with_values
from fastreid.config.tree import leaves
from fastreid.modeling.model import build_model, evaluation_config_of
from fastreid.utils.checkpoint import CONFIG_TEXT, WeightsError, load_weights, read_checkpoint
from fastreid.utils.registry import RegistryError

BESIDE = "config.yaml"
"""The config of a run in its folder; older checkpoints carry none themselves."""

# Where files of the run were. A model does not need them, and without them runs in two folders have the same text.
_PLACES = ("OUTPUT_DIR", "MODEL.WEIGHTS", "DATASETS.ROOT")
# Keys that do not change names and shapes of weights.
_NOT_OF_WEIGHTS = (
    *("SOLVER", "DATASETS", "DATALOADER", "TEST", "KD", "IMPORTS", "OUTPUT_DIR", "CUDNN_BENCHMARK", "DETERMINISTIC"),
    *("MODEL.DEVICE", "MODEL.SEED", "MODEL.WEIGHTS", "MODEL.FREEZE_LAYERS", "MODEL.LOSSES", "MODEL.HEADS.NUM_CLASSES"),
    "MODEL.COMPILE",
    *("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.BACKBONE.PRETRAIN", "MODEL.BACKBONE.PRETRAIN_PATH"),
    *(f"INPUT.{name}" for name in ("CROP", "FLIP", "PADDING", "ROTATION", "CJ", "AFFINE", "AUTOAUG", "AUGMIX")),
    *("INPUT.REA", "INPUT.RPT", "INPUT.INTERPOLATION_TEST", "MODEL.BACKBONE.PRETRAIN_MIN_COVERAGE"),
    *("MODEL.FLOAT32", "MODEL.CHANNELS_LAST"),
)
_SHOWN = 4


def config_text(cfg: CfgNode) -> str:
    """Return the text in YAML that a checkpoint carries: all keys, without the places of the files of the run.

    Args:
        cfg: the config, as the model is built by it.
    """
    defaults = get_cfg()
    return with_values(cfg, {key: value_of(defaults, key) for key in _PLACES}).dump()


def load_trained(
    checkpoint: str | os.PathLike[str],
    *,
    config: CfgNode | str | os.PathLike[str] | None = None,
    key: str = "",
    device: str | torch.device = "cpu",
) -> tuple[nn.Module, CfgNode]:
    """Return the model of a checkpoint in eval mode, without gradients, and its config.

    User-defined files that the config names in IMPORTS are not run; what they register must be imported before.

    Args:
        checkpoint: a checkpoint. Those of older versions carry no config; they are read with the config.yaml of their
            run, if it is beside them.
        config: a config, or a YAML file, instead of the one that the checkpoint carries.
        key: config key that names the checkpoint, for error messages.
        device: where the model is put; "auto" is CUDA if torch sees it, else the CPU.

    Raises:
        ConfigError: no such file, no config, or one that cannot be used here.
        WeightsError: the checkpoint is damaged or of another model.
    """
    cfg = trained_config(checkpoint, config=config, key=key)
    path = str(Path(checkpoint).expanduser())
    cfg = with_values(cfg, {"MODEL.WEIGHTS": path, "MODEL.DEVICE": resolve_device(device, key="device")})
    with _naming_user_code(cfg.IMPORTS):
        return model_for_evaluation(cfg).requires_grad_(False), cfg


def trained_config(
    checkpoint: str | os.PathLike[str], *, config: CfgNode | str | os.PathLike[str] | None = None, key: str = ""
) -> CfgNode:
    """Return the config of a checkpoint, as `load_trained` finds it.

    Args:
        checkpoint: the checkpoint.
        config: as in `load_trained`.
        key: config key that names the checkpoint, for error messages.

    Raises:
        ConfigError: no such file, no config, or one that cannot be used here.
        WeightsError: the checkpoint is damaged.
    """
    if not isinstance(checkpoint, str | os.PathLike):
        raise ConfigError(f"a checkpoint is the path of a file, got {checkpoint!r:.60} ({type(checkpoint).__name__})")
    path = Path(checkpoint).expanduser()
    named = f"{key} {str(path)!r}" if key else str(path)
    if not os.fspath(checkpoint) or not path.is_file():
        is_folder = ", it is a folder: name a file in it, such as model_final.pth" if path.is_dir() else ""
        raise ConfigError(f"{named}: there is no such checkpoint{is_folder}")
    return _config_of(path, named) if config is None else _given(config)


def model_for_evaluation(cfg: CfgNode, build: Callable[[CfgNode], nn.Module] | None = None) -> nn.Module:
    """Return the model of a config with MODEL.WEIGHTS loaded, in eval mode.

    Args:
        cfg: the config.
        build: config -> the model; `build_model` by default.

    Raises:
        ConfigError: no MODEL.WEIGHTS, or a key out of its range.
        WeightsError: the file is missing, unreadable, or of another model.
    """
    check_ranges(cfg)
    path = cfg.MODEL.WEIGHTS
    if not path:
        raise ConfigError("a predictor or --eval-only needs a checkpoint: add MODEL.WEIGHTS path/to/model_final.pth")
    built = evaluation_config_of(cfg)
    # Evaluation reads no classifier, and there may be no training data whose people could be counted.
    built = with_values(built, {"MODEL.HEADS.NUM_CLASSES": built.MODEL.HEADS.NUM_CLASSES or 1})
    model = (build or build_model)(built)
    with saying_what_it_is(path, cfg):
        load_weights(model, path, to_evaluate=True, min_coverage=cfg.MODEL.BACKBONE.PRETRAIN_MIN_COVERAGE)
    return model.eval()


@contextlib.contextmanager
def saying_what_it_is(path: str | os.PathLike[str], cfg: CfgNode) -> Iterator[None]:
    """Add to a `WeightsError` in the block what the checkpoint was trained as, if it carries its config.

    Args:
        path: the checkpoint.
        cfg: the config whose model its weights do not fit.
    """
    try:
        yield
    except WeightsError as error:
        theirs = _config_in(path)
        if theirs is None:
            raise
        raise WeightsError(f"{error}. {_comparison(theirs, cfg)}") from error


def _config_in(path: str | os.PathLike[str]) -> CfgNode | None:
    """Return the config that a checkpoint carries; None if there is none, or if the checkpoint is damaged."""
    try:
        text = _carried(read_checkpoint(path))
        return _merged(text, path) if text else None
    except (WeightsError, ConfigError):
        return None


def _comparison(theirs: CfgNode, cfg: CfgNode) -> str:
    """Return a sentence: what a checkpoint was trained as, and the keys of its model that a config changes."""
    own = dict(leaves(cfg))
    differing = [
        f"{key} ({value!r} there, {own[key]!r} here)"
        for key, value in leaves(theirs)
        if key in own and own[key] != value and not any(f"{key}.".startswith(f"{name}.") for name in _NOT_OF_WEIGHTS)
    ]
    backbone = theirs.MODEL.BACKBONE
    size = backbone.TIMM_NAME or backbone.DEPTH
    what = f"The checkpoint was trained as {theirs.MODEL.META_ARCHITECTURE} with {backbone.NAME} {size}"
    if not differing:
        return f"{what}, and this config has the same keys of the model"
    more = f" and {len(differing) - _SHOWN} more keys" if len(differing) > _SHOWN else ""
    return f"{what}; this config differs in {', '.join(differing[:_SHOWN])}{more}"


def _config_of(path: Path, named: str) -> CfgNode:
    """Return the config that a checkpoint carries, or else the one beside it."""
    try:
        content = read_checkpoint(path, lazily=True)
    except WeightsError:  # damaged, or of the old format of torch
        content = read_checkpoint(path)
    if text := _carried(content):
        return _merged(text, path)
    if (path.parent / BESIDE).is_file():
        return _given(path.parent / BESIDE)
    raise ConfigError(
        f"{named} carries no config, which says what model it is of, and there is no {BESIDE} beside it: copy the one "
        "of its run there, or give a config (Predictor(checkpoint, config=...))"
    )


def _given(config: CfgNode | str | os.PathLike[str]) -> CfgNode:
    if isinstance(config, CfgNode):
        return config
    if not isinstance(config, str | os.PathLike):
        raise ConfigError(
            f"config is a config or the path of a YAML file, got {config!r:.60} ({type(config).__name__})"
        )
    cfg = get_cfg()
    cfg.merge_from_file(os.fspath(config))
    return cfg


def _carried(content: Any) -> str:
    """Return the text of the config in a checkpoint; "" if there is none."""
    text = content.get(CONFIG_TEXT) if isinstance(content, dict) else None
    return text if isinstance(text, str) else ""


def _merged(text: str, path: str | os.PathLike[str]) -> CfgNode:
    cfg = get_cfg()
    try:
        cfg.merge_from_text(text, f"the config in {path}")
    except ConfigError as error:
        raise ConfigError(
            f"{error}. If code of yours adds the key with add_section, import it first; if it adds the key to a "
            "config, or if the checkpoint is of a newer version, give that config (Predictor(checkpoint, config=cfg))"
        ) from error
    return cfg


@contextlib.contextmanager
def _naming_user_code(files: list[str]) -> Iterator[None]:
    """Add to an unknown name of a model or of its parts which user-defined files the run has imported."""
    try:
        yield
    except RegistryError as error:
        if not files:
            raise
        raise RegistryError(f"{error}. Its run imported {', '.join(files)}: import what it registers first") from error
