"""Compares the identity in a checkpoint with that of the resumed run, and decides which changes are accepted."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fastreid.config import CfgNode, ConfigError, get_cfg
from fastreid.config.unread import TABLE
from fastreid.engine.identity import Identity, flatten
from fastreid.utils.checkpoint_file import WeightsError
from fastreid.utils.manifest import TRAINING, read_manifest

logger = logging.getLogger(__name__)

ANYWAY = "anyway"
"""Argument of ``resume_or_load`` for --resume-anyway: accept changes and record them."""

# Keys, or groups of them, that may differ in a resumed run (docs/usage.md has the reasons).
FREE = (
    "OUTPUT_DIR", "IMPORTS", "CUDNN_BENCHMARK", "DETERMINISTIC", "TEST", "INPUT.SIZE_TEST",
    "MODEL.DEVICE", "MODEL.FLOAT32", "MODEL.WEIGHTS",
    "MODEL.BACKBONE.PRETRAIN", "MODEL.BACKBONE.PRETRAIN_PATH", "MODEL.BACKBONE.PRETRAIN_MIN_COVERAGE",
    # The frozen weights and the betas of the assets are compared instead.
    "MODEL.SDMODEL.UNET_CONFIG.PRETRAINED_PATH", "MODEL.SDMODEL.SCHEDULER_CONFIG.PRETRAINED_PATH",
    "MODEL.SDMODEL.PREDICTION_TYPE", "MODEL.SDMODEL.FEATURE_CACHE",
    # The checksums of captions and of the reference set are compared instead.
    "DIFFPERSON.LPE.CAPTION_FILE", "DIFFPERSON.DI.FOLDER", "DIFFPERSON.GRAMMAR",
    # Keys that only sampling reads.
    "MODEL.SDMODEL.SCHEDULER_CONFIG.NAME", "MODEL.SDMODEL.SCHEDULER_CONFIG.TIMESTEP_SPACING",
    "MODEL.SDMODEL.NULL_CONDITION",
    "DATASETS.ROOT", "DATASETS.TESTS",
    "DATALOADER.NUM_WORKERS", "DATALOADER.TIMEOUT", "DATALOADER.BAD_IMAGES",
    "SOLVER.MAX_EPOCH", "SOLVER.CHECKPOINT_PERIOD", "SOLVER.KEEP_CHECKPOINTS", "SOLVER.MAX_NONFINITE",
    "SOLVER.FSDP.ENABLED", "SOLVER.FSDP.GATHER_DTYPE", "SOLVER.FSDP.SYNC_EACH_PART",
    "SOLVER.EMA.ENABLED",  # the checkpointer checks it
)  # fmt: skip
# Free if the images themselves can be compared.
FREE_WITH_IMAGES = ("DATASETS.NAMES", "DATASETS.COMBINEALL")
# The state of another optimiser or schedule cannot be continued.
FIXED = ("SOLVER.OPT", "SOLVER.SCHED")
# Keys -> options of parameter groups that they set.
_OPTIONS = {
    "SOLVER.WEIGHT_DECAY": ("weight_decay",),
    "SOLVER.MOMENTUM": ("momentum",),
    "SOLVER.NESTEROV": ("nesterov",),
}
_FOLLOW_MAX_EPOCH = ("CosineAnnealingLR", "EpochWarmupCosineLR", "LinearLR")
_DATA = {
    "order": "the order of the training images",
    "people": "which person a training image shows",
    "cameras": "the cameras of the training images",
    "views": "the views of the training images",
    "attributes": "the attributes of the people in training images",
    "content": "the content of image files (their names are the same)",
}
_SHOWN = 8


class ResumeError(ConfigError):
    """A run cannot be resumed: its data or its configuration have changed."""


def check_resumable(
    path: os.PathLike[str], content: Any, now: Identity, optimizer: torch.optim.Optimizer, *, anyway: bool
) -> list[str]:
    """Compare a checkpoint with this run, and give its identity the ``history`` of the checkpoint and the changes.

    Args:
        path: path of the checkpoint.
        content: content of the checkpoint.
        now: the identity of this run.
        optimizer: the optimiser of this run.
        anyway: accept changes, except of optimiser and schedule.

    Returns:
        One phrase for each change that was accepted.

    Raises:
        ResumeError: there are changes that are not accepted; the message names them.
        WeightsError: the optimiser state is that of another optimiser.
    """
    content = content if isinstance(content, dict) else {}
    before = content.get("identity")
    before = before if isinstance(before, dict) and isinstance(before.get("config"), dict) else None
    changed = _accepted(path, before, now, anyway=anyway)
    if isinstance(state := content.get("optimizer"), dict):
        _check_optimizer(path, state, optimizer)
    now["history"] = list(before.get("history", [])) if before else []
    if changed:
        now["history"].append({"iteration": content.get("iteration"), "changed": changed})
        logger.warning("resuming because of --resume-anyway, although %s", "; ".join(changed))
    return changed


def _accepted(path: os.PathLike[str], before: Identity | None, now: Identity, *, anyway: bool) -> list[str]:
    if before is None:
        logger.info("%s has no fingerprints of data and configuration: whether they are the same is not checked", path)
        return []
    fixed = list(_fixed_changes(before, now))
    if fixed:
        raise ResumeError(
            f"{path} cannot be resumed: {'; '.join(fixed)}. The state of one cannot be continued by another: to go on "
            f"with these weights, start a new run: leave out --resume, set MODEL.WEIGHTS {path} and another OUTPUT_DIR"
        )
    changed = list(changes(before, now))
    if changed and not anyway:
        shown = "; ".join(changed[:_SHOWN]) + (f"; and {len(changed) - _SHOWN} more" if changed[_SHOWN:] else "")
        raise ResumeError(
            f"{path} is of a run that trains on something else: {shown}. Repeat the command that the run was started "
            "with (manifest.json beside it has it), give another OUTPUT_DIR to start a new run, or use --resume-anyway "
            "to accept the changes, which are then recorded"
        )
    _warn_of_max_epoch(before["config"], now["config"])
    return changed


def changes(before: Identity, now: Identity) -> Iterator[str]:
    """Yield one phrase for each difference between two identities that changes the training."""
    yield from _config_changes(before, now)
    yield from _data_changes(before.get("data"), now.get("data"))
    if before.get("frozen") and now.get("frozen") and before["frozen"] != now["frozen"]:
        yield "the weights of the assets, which are in no checkpoint, changed"
    for name, value in (now.get("facts") or {}).items():
        was = (before.get("facts") or {}).get(name, value)
        if was != value:
            yield _was_is(name, was, value)


def _config_changes(before: Identity, now: Identity) -> Iterator[str]:
    old, new = before["config"], now["config"]
    free = (*FREE, *FIXED, *(FREE_WITH_IMAGES if before.get("data") and now.get("data") else ()))
    defaults = flatten(get_cfg())
    for key, value in new.items():
        if _is_below(key, free) or (key not in old and key not in defaults):
            continue
        was = old.get(key, defaults.get(key))  # the checkpoint may be older than the key
        if was != value and not _is_without_effect(key, old, new):
            yield _was_is(key, was, value)


def _is_without_effect(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether nothing reads the key, in both runs."""
    group = key.rpartition(".")[0]
    switch = f"{group}.ENABLED"
    if key != switch and not (old.get(switch, True) and new.get(switch, True)):
        return True  # if it is on in one of them only, the switch itself is a change
    cfg = _as_node(new)
    rows = [row for row in TABLE if _is_below(key, row.keys) and old.get(row.because) == new.get(row.because)]
    return any(row.when(cfg) for row in rows)


def _data_changes(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> Iterator[str]:
    if old is None or new is None:
        return
    if old["names"] != new["names"]:
        was, now = (f"{part['images']} images of {part['classes']} people" for part in (old, new))
        yield f"the training images changed ({was} before, {now} now)"
        return
    yield from (f"{words} changed" for key, words in _DATA.items() if old.get(key) != new.get(key))


def _fixed_changes(before: Identity, now: Identity) -> Iterator[str]:
    for key in FIXED:
        if before["config"].get(key) != now["config"].get(key):
            yield _was_is(key, before["config"].get(key), now["config"].get(key))
            return
    old, new = before.get("optimizer"), now.get("optimizer")
    if old and new and old != new:
        yield _was_is("the optimiser", old, new)


def _check_optimizer(path: os.PathLike[str], state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Check that a saved state has the options that the optimiser reads; loading does not check it.

    Raises:
        WeightsError: the state is that of another optimiser.
    """
    for saved, group in zip(state.get("param_groups", []), optimizer.param_groups, strict=False):
        if missing := sorted(group.keys() - saved.keys() - {"params", "initial_lr"}):
            raise WeightsError(
                f"the optimizer in {path} is not {type(optimizer).__name__}: it has no {', '.join(missing)}. "
                "Resume with the SOLVER.OPT that the run was started with; to continue with its weights only, start a "
                f"new run with MODEL.WEIGHTS {path} and another OUTPUT_DIR"
            )


def take_options(optimizer: torch.optim.Optimizer, asked: Sequence[Mapping[str, Any]], changed: Iterable[str]) -> None:
    """Give the groups of a resumed optimiser the options of this config that have changed.

    A loaded state has the old ones. Learning rates come from the schedule.

    Args:
        optimizer: the optimiser, with the loaded state.
        asked: options of each group by this config.
        changed: the accepted changes, as `check_resumable` returns them.
    """
    keys = [words.partition(" ")[0] for words in changed]
    names = {name for key in keys for prefix, names in _OPTIONS.items() if key.startswith(prefix) for name in names}
    if "SOLVER.OPT_ARGS" in keys:
        names |= {name for group in asked for name in group} - {"lr", "initial_lr"}
    for group, options in zip(optimizer.param_groups, asked, strict=True):
        group.update({name: value for name, value in options.items() if name in names})


def _warn_of_max_epoch(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    before, now = old.get("SOLVER.MAX_EPOCH"), new.get("SOLVER.MAX_EPOCH")
    shares = new.get("SOLVER.WARMUP_SHARE") or new.get("SOLVER.STEP_SHARES")
    if before != now and (shares or new.get("SOLVER.SCHED") in _FOLLOW_MAX_EPOCH):
        logger.warning(
            "SOLVER.MAX_EPOCH was %s, is %s: learning rates of %s depend on it, so the rest of this run is not that of "
            "a run that was started with %s epochs", before, now, new["SOLVER.SCHED"], now,
        )  # fmt: skip


def _was_is(name: str, was: Any, value: Any) -> str:
    return f"{name} was {_short(was)}, is {_short(value)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _as_node(flat: Mapping[str, Any]) -> CfgNode:
    root = CfgNode()
    for name, value in flat.items():
        *groups, key = name.split(".")
        node = root
        for group in groups:
            node = node.setdefault(group, CfgNode())
        node[key] = value
    return root


def _is_below(key: str, names: Iterable[str]) -> bool:
    return any(f"{key}.".startswith(f"{name}.") for name in names)


def seed_of_run(folder: str | os.PathLike[str]) -> int | None:
    """The seed that the run in a folder has drawn (MODEL.SEED -1), for sessions that resume it; None if unknown."""
    found = read_manifest(Path(folder).expanduser() / TRAINING)
    seed = found.get("seed") if found else None
    return seed if isinstance(seed, int) and seed >= 0 else None
