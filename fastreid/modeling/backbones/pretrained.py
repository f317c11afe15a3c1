"""Loading pretrained backbones: each load is logged, and too few matching weights are an error."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fastreid.utils.checkpoint_file import WeightsError, read_checkpoint, state_dict_in, weights_file
from fastreid.utils.state_dicts import without_wrapper
from fastreid.utils.tensor_kinds import check_kinds, check_whole_numbers, warn_of_nonfinite

logger = logging.getLogger(__name__)

# Keys of MODEL.BACKBONE that every backbone reads; each declares the others that it reads, and refuses the rest.
READ_BY_ALL = ("NAME", "FEAT_DIM", "PRETRAIN", "PRETRAIN_PATH", "PRETRAIN_MIN_COVERAGE")


def load_pretrained(
    module: nn.Module,
    path: str,
    *,
    adapt: Callable[[Any, dict[str, Tensor]], dict[str, Tensor]],
    min_coverage: float,
    required: tuple[str, ...] = (),
) -> float:
    """Fill a module from a file and log what matched.

    Args:
        module: the module.
        path: the file, or a folder of the Hugging Face hub with it.
        adapt: (module, state of the file) -> state with the names and shapes of the module.
        min_coverage: least share of the values of the module's parameters that must be filled, 0 to 1.
        required: names that must be filled, whatever the share.

    Returns:
        The share that was filled.

    Raises:
        WeightsError: no file, tensors that cannot be weights, a required one is missing, or a share below
            `min_coverage`, with which training would silently start from scratch.
    """
    file = _existing_file(path)
    own = module.state_dict()

    def fitting_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value for name, value in state.items() if name in own and value.shape == own[name].shape}

    def values_filled(state: dict[str, Tensor]) -> int:
        try:
            return sum(value.numel() for value in fitting_of(adapt(module, state)).values())
        except WeightsError:
            if state.keys() == whole.keys():
                raise
            return 0  # without a prefix, names of two parts of the file may be the same

    whole = state_dict_in(read_checkpoint(file), file)
    check_kinds(whole, file)
    wrapper, state = without_wrapper(whole, values_filled)
    if wrapper:
        logger.info("%s: %r is dropped from its names", file, wrapper)
    state = adapt(module, state)
    fitting = fitting_of(state)
    coverage = sum(own[name].numel() for name in fitting) / sum(value.numel() for value in own.values())
    report = f"{file}: {len(fitting)} of {len(own)} tensors matched, {coverage:.1%} of the backbone's values; "
    report += _differences(own, state, fitting)
    if coverage < min_coverage:
        raise WeightsError(
            f"only {coverage:.1%} of the backbone would be pretrained (PRETRAIN_MIN_COVERAGE is {min_coverage:.0%}). "
            f"{report}. Is this file for another model or another MODEL.BACKBONE.DEPTH?"
        )
    if lacking := [name for name in required if name not in fitting]:
        raise WeightsError(f"{_some(lacking)} would stay random. {report}. Is this file for another model?")
    check_whole_numbers(module, fitting, file)
    warn_of_nonfinite(module, fitting, file)
    module.load_state_dict(fitting, strict=False)
    logger.info("pretrained backbone %s", report)
    return coverage


def _existing_file(path: str) -> Path:
    if not path or not Path(path).expanduser().exists():
        raise WeightsError(
            f"MODEL.BACKBONE.PRETRAIN is True but there is no file {path!r} (MODEL.BACKBONE.PRETRAIN_PATH). Put the "
            "published weights there, or set MODEL.BACKBONE.PRETRAIN False to start from random ones"
            if path
            else "MODEL.BACKBONE.PRETRAIN is True but MODEL.BACKBONE.PRETRAIN_PATH is empty. Name a local file of "
            "weights (nothing is downloaded), or set MODEL.BACKBONE.PRETRAIN False to start from random ones"
        )
    return weights_file(path)


_PREFIX = re.compile(r"(?:[^.]+\.)*?backbone\.")  # the shortest one
# Modules that hold a network and nothing else: TimmBackbone, ClipViT.
_HOLDERS = ("model.", "vit.")


def backbone_of(state: dict[str, Tensor], path: str | Path) -> tuple[dict[str, Tensor], list[str]]:
    """Take the backbone out of the state of a whole model, under the names that `load_pretrained` expects.

    Args:
        state: names with tensors, of a checkpoint of this library or of fast-reid.
        path: the file that they are from, for messages.

    Returns:
        The names with tensors of the backbone, and the names of the other tensors.

    Raises:
        WeightsError: there is no backbone, there are several, or it is the part of one that MGN's branches share.
    """
    prefixes = {found[0] for name in state if (found := _PREFIX.match(name))}
    if len(prefixes) != 1:
        there = f"it has {_some(sorted(prefixes))}" if prefixes else f"its parts are {_some(_parts(state))}"
        raise WeightsError(f"{path} must have one part that is called backbone, but {there}")
    (prefix,) = prefixes
    names = {name: name.removeprefix(prefix) for name in state if name.startswith(prefix)}
    if {"b1", "b2", "b3"} <= set(_parts(state)):
        raise WeightsError(f"{path} is of MGN, whose branches have a copy each of the last stages of its backbone")
    for holder in _HOLDERS:
        if all(name.startswith(holder) for name in names.values()):
            names = {name: short.removeprefix(holder) for name, short in names.items()}
    return {short: state[name] for name, short in names.items()}, [name for name in state if name not in names]


def _parts(state: dict[str, Tensor]) -> list[str]:
    return sorted({name.partition(".")[0] for name in state})


def _differences(own: dict[str, Tensor], state: dict[str, Tensor], fitting: dict[str, Tensor]) -> str:
    misshaped = [
        f"{name} {tuple(value.shape)} for {tuple(own[name].shape)}"
        for name, value in state.items()
        if name in own and name not in fitting
    ]
    return (
        f"missing: {_some(sorted(own.keys() - state.keys()))}; other shape: {_some(misshaped)}; "
        f"left over in the file: {_some(sorted(state.keys() - own.keys()))}"
    )


def _some(names: list[str], limit: int = 6) -> str:
    if not names:
        return "none"
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
