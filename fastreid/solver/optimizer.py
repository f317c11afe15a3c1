"""Builds the optimiser: parameter groups by kind of parameter, then SGD, Adam or AdamW."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from fastreid.config import ConfigError
from fastreid.utils.registry import Registry

OPTIMIZER_REGISTRY = Registry("SOLVER.OPT")
"""Name -> function (parameter groups, cfg) -> torch.optim.Optimizer."""

HEAD_NAMES = ("identity_head.", "view_head.", "heads.")
NORM_TYPES = (
    nn.modules.batchnorm._NormBase,  # batch and instance norms of every dimension
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
    nn.RMSNorm,
)


class GroupSettings(NamedTuple):
    """What one parameter trains with; parameters with equal settings share a group."""

    lr: float
    weight_decay: float


def base_lr(cfg: Any) -> float:
    """SOLVER.OVERRIDE_LR where it is above 0 (as SD-ReID's files use it), else SOLVER.BASE_LR."""
    return cfg.SOLVER.OVERRIDE_LR if cfg.SOLVER.OVERRIDE_LR > 0 else cfg.SOLVER.BASE_LR


def group_parameters(cfg: Any, model: nn.Module) -> list[dict[str, Any]]:
    """Return optimiser groups of the trainable parameters, one per distinct (lr, weight decay).

    fast-reid's rules: parameters of norm layers decay by WEIGHT_DECAY_NORM; other biases learn at
    BIAS_LR_FACTOR and decay by WEIGHT_DECAY_BIAS; anything below a head learns at HEADS_LR_FACTOR
    on top. A parameter shared by two modules is taken once. Order follows the model, so that a
    saved optimiser state fits again.

    Raises:
        ConfigError: nothing in the model requires a gradient.
    """
    groups: dict[GroupSettings, list[nn.Parameter]] = {}
    for name, module, parameter in _trainable(model):
        groups.setdefault(_settings(cfg, name, module), []).append(parameter)
    if not groups:
        raise ConfigError("no parameter of the model requires a gradient: there is nothing to train")
    return [{"params": parameters, **settings._asdict()} for settings, parameters in groups.items()]


def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                yield (f"{prefix}.{leaf}" if prefix else leaf), module, parameter


def _settings(cfg: Any, name: str, module: nn.Module) -> GroupSettings:
    solver = cfg.SOLVER
    lr, weight_decay = base_lr(cfg), solver.WEIGHT_DECAY
    if isinstance(module, NORM_TYPES):
        weight_decay = solver.WEIGHT_DECAY_NORM
    elif name.rpartition(".")[2] == "bias":
        lr, weight_decay = lr * solver.BIAS_LR_FACTOR, solver.WEIGHT_DECAY_BIAS
    # A dot in front: "identity_head." must start a part of the name, not end one ("overheads.").
    if any(f".{head}" in f".{name}" for head in HEAD_NAMES):
        lr *= solver.HEADS_LR_FACTOR
    return GroupSettings(lr, weight_decay)


def build_optimizer(cfg: Any, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimiser named by SOLVER.OPT over ``group_parameters(cfg, model)``.

    Raises:
        RegistryError: unknown SOLVER.OPT, with near matches.
        ConfigError: nothing to train.
    """
    make = OPTIMIZER_REGISTRY.get(cfg.SOLVER.OPT)
    return make(group_parameters(cfg, model), cfg)


def _fused(groups: list[dict[str, Any]]) -> bool | None:
    """Whether one kernel may do the whole step (about 2.5x faster on a CPU); None: torch decides."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    known = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    return True if known else None


@OPTIMIZER_REGISTRY.register(name="SGD")
def _sgd(groups: list[dict[str, Any]], cfg: Any) -> torch.optim.Optimizer:
    solver = cfg.SOLVER
    return torch.optim.SGD(
        groups,
        lr=base_lr(cfg),
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        fused=_fused(groups),
    )


@OPTIMIZER_REGISTRY.register(name="Adam")
def _adam(groups: list[dict[str, Any]], cfg: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, lr=base_lr(cfg), fused=_fused(groups))


@OPTIMIZER_REGISTRY.register(name="AdamW")
def _adamw(groups: list[dict[str, Any]], cfg: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=base_lr(cfg), fused=_fused(groups))
