"""The optimiser: parameter groups by kind of parameter, and any class of torch.optim."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from fastreid.config import ConfigError, value_of
from fastreid.modeling import interface_of
from fastreid.solver.frozen import frozen_parts
from fastreid.solver.layer_decay import layer_factors
from fastreid.solver.pairs import usable_as_pair
from fastreid.utils.registry import Registry, RegistryError
from fastreid.utils.suggest import explain_choice

OPTIMIZER_REGISTRY = Registry("SOLVER.OPT")
"""Name -> function (parameter groups, cfg) -> torch.optim.Optimizer. Other names are looked up in torch.optim."""

# Classes of torch.optim that this training loop cannot use.
IMPOSSIBLE = {
    "LBFGS": "it calls the model again and again for one step and has no parameter groups",
    "SparseAdam": "it takes sparse gradients only, which no part of these models has",
}
# Arguments of optimisers that have keys of their own.
OWN_KEYS = {
    "lr": "SOLVER.BASE_LR",
    "weight_decay": "SOLVER.WEIGHT_DECAY, WEIGHT_DECAY_NORM and WEIGHT_DECAY_BIAS",
}

NORM_TYPES = (
    nn.modules.batchnorm._NormBase,  # batch and instance norms of every dimension
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
    nn.RMSNorm,
)


class GroupSettings(NamedTuple):
    """Settings of one parameter; parameters with equal settings share a group.

    Args:
        lr: learning rate.
        weight_decay: weight decay.
    """

    lr: float
    weight_decay: float


def base_lr(cfg: Any) -> float:
    """Return SOLVER.OVERRIDE_LR if it is above 0 (as in files of SD-ReID), otherwise SOLVER.BASE_LR."""
    return cfg.SOLVER.OVERRIDE_LR if cfg.SOLVER.OVERRIDE_LR > 0 else cfg.SOLVER.BASE_LR


def group_parameters(cfg: Any, model: nn.Module) -> list[dict[str, Any]]:
    """Return groups of the trainable parameters, one per distinct (lr, weight decay).

    The rules are those of fast-reid. Parameters of norm layers decay by WEIGHT_DECAY_NORM. Other biases train at
    BIAS_LR_FACTOR and decay by WEIGHT_DECAY_BIAS. The parts that a model declares (`ReidModel.rate_parts`), by default
    its heads, train at their factor as well, and layers of the backbone at the factor of SOLVER.LAYER_DECAY
    (`layer_factors`). A parameter that several modules share is taken once. The parts in MODEL.FREEZE_LAYERS have
    groups of their own: fused kernels cannot step parameters of which only some have a momentum yet. The order is that
    of the model, so that a saved optimiser state fits again.

    Args:
        cfg: the config.
        model: the bare model.

    Raises:
        ConfigError: nothing in the model requires a gradient, SOLVER.LAYER_DECAY has no layers to act on, or
            MODEL.FREEZE_LAYERS names what is not there.
    """
    groups: dict[tuple[GroupSettings, bool], list[nn.Parameter]] = {}
    factors = layer_factors(model, cfg.SOLVER.LAYER_DECAY)
    waiting = {id(p) for p in frozen_parts(model, cfg.MODEL.FREEZE_LAYERS)[1]} if cfg.SOLVER.FREEZE_ITERS else set()
    part_factors = _part_factors(cfg, model)
    for name, module, parameter in _trainable(model):
        settings = _settings(cfg, name, module)
        lr = settings.lr
        for factor in part_factors.get(id(module), ()):
            lr *= factor
        settings = settings._replace(lr=lr * factors.get(name, 1.0))
        groups.setdefault((settings, id(parameter) in waiting), []).append(parameter)
    if not groups:
        raise ConfigError("no parameter of the model requires a gradient: there is nothing to train")
    return [{"params": parameters, **settings._asdict()} for (settings, _), parameters in groups.items()]


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
    return GroupSettings(lr, weight_decay)


def _part_factors(cfg: Any, model: nn.Module) -> dict[int, list[float]]:
    """Id of each module in a part with a rate of its own -> the factors of its learning rate."""
    factors: dict[int, list[float]] = {}
    for part in interface_of(model).rate_parts():
        members = {id(member) for module in part.modules for member in module.modules()}
        for member in members:
            factors.setdefault(member, []).append(value_of(cfg, part.factor))
    return factors


def build_optimizer(cfg: Any, model: nn.Module, contiguous: bool = False) -> torch.optim.Optimizer:
    """Return the optimiser of a config, over the groups of `group_parameters`.

    SOLVER.OPT is a name in OPTIMIZER_REGISTRY or a class of torch.optim; SOLVER.OPT_ARGS are its arguments. SGD also
    takes SOLVER.MOMENTUM and NESTEROV. The optimiser can be unpacked into itself and its parameter groups, as the pair
    that fast-reid returns.

    Args:
        cfg: the config.
        model: the bare model.
        contiguous: must be False: the flat buffers of fast-reid do not work with torch 2.

    Raises:
        RegistryError: unknown SOLVER.OPT; the message has near matches.
        ConfigError: nothing to train, an optimiser that cannot train this model, an argument that it does not have, or
            `contiguous`.
    """
    if contiguous:
        raise ConfigError(
            "build_optimizer(…, contiguous=True): with torch 2 an optimiser over flat buffers changes no weights; "
            "leave it out, the optimisers of torch are fused without them"
        )
    optimizer = _optimizer(cfg, model)
    optimizer.register_load_state_dict_post_hook(_match_layout)
    return usable_as_pair(optimizer)


def _match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Store loaded tensors in the order of their parameters: fused kernels go through both from the start."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def _optimizer(cfg: Any, model: nn.Module) -> torch.optim.Optimizer:
    name = cfg.SOLVER.OPT
    if name in OPTIMIZER_REGISTRY:
        return OPTIMIZER_REGISTRY.get(name)(group_parameters(cfg, model), cfg)
    if name in IMPOSSIBLE:
        raise ConfigError(f"SOLVER.OPT {name} cannot be used here: {IMPOSSIBLE[name]}")
    if name not in _torch_classes():
        raise RegistryError(explain_choice(OPTIMIZER_REGISTRY.name, name, {*OPTIMIZER_REGISTRY, *_torch_classes()}))
    return _build(getattr(torch.optim, name), group_parameters(cfg, model), cfg)


def _torch_classes() -> list[str]:
    """Return the names of the classes of torch.optim that can be used."""
    known = vars(torch.optim).items()
    classes = [name for name, value in known if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer)]
    return sorted(set(classes) - {"Optimizer", *IMPOSSIBLE})


def _build(
    cls: Callable[..., torch.optim.Optimizer],
    groups: list[dict[str, Any]],
    cfg: Any,
    own_keys: dict[str, str] = OWN_KEYS,
    **arguments: Any,
) -> torch.optim.Optimizer:
    """Return an optimiser over groups; SOLVER.OPT_ARGS override `arguments`.

    Args:
        cls: its class.
        groups: parameter groups.
        cfg: the config.
        own_keys: arguments that have a key of their own -> that key.
        **arguments: further arguments.
    """
    legal = [name for name in inspect.signature(cls).parameters if name not in ("params", *own_keys)]
    for name, value in _pairs(cfg.SOLVER.OPT_ARGS):
        if name in own_keys:
            raise ConfigError(f"SOLVER.OPT_ARGS sets {name}, which has keys of its own: {own_keys[name]}")
        if name not in legal:
            raise ConfigError(explain_choice(f"argument of {cls.__name__} in SOLVER.OPT_ARGS", name, legal))
        arguments[name] = value
    has_decay = "weight_decay" in inspect.signature(cls).parameters
    # torch would accept a weight decay in the groups and ignore it.
    if not has_decay and any(group.pop("weight_decay") for group in groups):
        raise ConfigError(
            f"SOLVER.OPT {cls.__name__} has no weight decay: set SOLVER.WEIGHT_DECAY, SOLVER.WEIGHT_DECAY_NORM and "
            "SOLVER.WEIGHT_DECAY_BIAS to 0.0"
        )
    if cls.__name__ == "Muon":
        _require_matrices(groups)
    try:
        return cls(groups, lr=base_lr(cfg), **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"SOLVER.OPT {cls.__name__} with {arguments}: {error}") from error


def _pairs(entries: list[Any]) -> list[tuple[str, Any]]:
    """Return SOLVER.OPT_ARGS as (name, value); strings of YAML that are Python literals (1e-6) are converted."""
    for entry in entries:
        if not isinstance(entry, list | tuple) or len(entry) != 2 or not isinstance(entry[0], str):
            raise ConfigError(
                f"SOLVER.OPT_ARGS is a list of pairs, as [[betas, [0.9, 0.98]], [eps, 0.000001]]; {entry!r} is none"
            )
    return [(name, _value(value)) for name, value in entries]


def _value(word: Any) -> Any:
    if not isinstance(word, str):
        return tuple(word) if isinstance(word, list) else word
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word


def _require_matrices(groups: list[dict[str, Any]]) -> None:
    """Check that all parameters are matrices: Muon makes each step orthogonal (Jordan et al., "Muon", 2024)."""
    shapes = [list(parameter.shape) for group in groups for parameter in group["params"]]
    if others := [shape for shape in shapes if len(shape) != 2]:
        raise ConfigError(
            f"SOLVER.OPT Muon steps matrices only, and {len(others)} of this model's {len(shapes)} trainable tensors "
            f"are none (the first is {others[0]}): it is for parts of linear layers without bias; choose AdamW, or "
            "register an optimiser of your own that splits the parameters"
        )


def _fused(groups: list[dict[str, Any]]) -> bool | None:
    """Return whether one kernel can do the whole step (about 2.5x faster on a CPU); None lets torch decide."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    known = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    known &= not any(isinstance(parameter, DTensor) for parameter in parameters)  # sharded: there is no fused kernel
    return True if known else None


@OPTIMIZER_REGISTRY.register(name="SGD")
def _sgd(groups: list[dict[str, Any]], cfg: Any) -> torch.optim.Optimizer:
    own_keys = OWN_KEYS | {"momentum": "SOLVER.MOMENTUM", "nesterov": "SOLVER.NESTEROV"}
    momentum, nesterov = cfg.SOLVER.MOMENTUM, cfg.SOLVER.NESTEROV
    return _build(torch.optim.SGD, groups, cfg, own_keys, momentum=momentum, nesterov=nesterov, fused=_fused(groups))


@OPTIMIZER_REGISTRY.register(name="Adam")
def _adam(groups: list[dict[str, Any]], cfg: Any) -> torch.optim.Optimizer:
    return _build(torch.optim.Adam, groups, cfg, fused=_fused(groups))


@OPTIMIZER_REGISTRY.register(name="AdamW")
def _adamw(groups: list[dict[str, Any]], cfg: Any) -> torch.optim.Optimizer:
    return _build(torch.optim.AdamW, groups, cfg, fused=_fused(groups))
