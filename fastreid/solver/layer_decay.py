"""Layer-wise learning-rate decay: the earlier a layer of the backbone, the smaller its rate (SOLVER.LAYER_DECAY)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

from torch import nn

from fastreid.config import ConfigError
from fastreid.modeling.model import Layered, modules_called

LayerOf = Callable[[str], int]
"""Name of a backbone's parameter -> its layer: 0 is the stem, ``num_layers`` the last block or stage."""


@runtime_checkable
class _TimmModel(Protocol):
    """The method by which models of timm declare the groups of their parameters."""

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns of names of parameters; coarse ones group by stages."""


def layer_factors(model: nn.Module, decay: float) -> dict[str, float]:
    """Return the factor of the learning rate of each parameter (Clark et al., "ELECTRA", 2020).

    A layer of a backbone with L layers trains at decay^(L + 1 - layer) of the full rate, everything else at the full
    rate. A backbone declares its layers as `fastreid.modeling.model.Layered`; timm's models declare them, too (a ViT
    its blocks, a ResNet its stages).

    Args:
        model: the bare model.
        decay: SOLVER.LAYER_DECAY; 1 is off.

    Returns:
        The name of each trainable parameter of a backbone with layers -> its factor.

    Raises:
        ConfigError: a factor outside (0, 1]; no backbone declares its layers, or none of its parameters trains.
    """
    if not 0 < decay <= 1:
        raise ConfigError(f"SOLVER.LAYER_DECAY is a factor from above 0 to 1 (off), got {decay}")
    if decay == 1:
        return {}
    factors = {
        f"{prefix}{name}": decay ** (num_layers + 1 - layer_of(name))
        for prefix, part, layer_of, num_layers in _layered(model)
        for name, parameter in part.named_parameters()
        if parameter.requires_grad
    }
    if not factors:
        raise ConfigError(
            f"SOLVER.LAYER_DECAY is {decay}, but {_reason(model)}. Set it to 1.0, or let the backbone define "
            "layer_of(parameter_name) -> 0 … num_layers, and num_layers"
        )
    return factors


def _layered(model: nn.Module) -> Iterator[tuple[str, nn.Module, LayerOf, int]]:
    """Yield (prefix of its names, module, its layers, their number) of the outermost modules that declare layers."""
    found: list[str] = []
    for name, part in model.named_modules():
        prefix = f"{name}." if name else ""
        if any(prefix.startswith(outer) for outer in found):
            continue
        if layers := _layers_of(part):
            found.append(prefix)
            yield prefix, part, *layers


def _layers_of(part: nn.Module) -> tuple[LayerOf, int] | None:
    if isinstance(part, Layered):
        return part.layer_of, part.num_layers
    if isinstance(part, _TimmModel):
        from timm.models import group_parameters

        layer_of = group_parameters(part, part.group_matcher(coarse=True), reverse=True)
        return layer_of.__getitem__, max(layer_of.values())
    return None


def _reason(model: nn.Module) -> str:
    if any(True for _ in _layered(model)):
        return f"no parameter of the backbone of {type(model).__name__} trains"
    backbones = [type(part).__name__ for part in modules_called("backbone", model)]
    who = f"the backbone {backbones[0]}" if backbones else f"no part of {type(model).__name__}"
    return f"{who} {'does not say' if backbones else 'says'} how deep its layers are"
