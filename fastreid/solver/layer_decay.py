"""Layer-wise learning-rate decay: the earlier a layer of the backbone, the less it learns (SOLVER.LAYER_DECAY)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import nn

from fastreid.config import ConfigError

LayerOf = Callable[[str], int]
"""Name of a backbone's parameter -> its layer: 0 is the stem, ``num_layers`` the last block or stage."""


def layer_factors(model: nn.Module, decay: float) -> dict[str, float]:
    """Name of each parameter -> what its learning rate is multiplied by (Clark et al., "ELECTRA", 2020).

    A backbone of L layers learns at decay^(L + 1 - layer) of the full rate, all else at the full rate. Which layer a
    parameter is of, the backbone says itself, by ``layer_of(name)`` and ``num_layers``; of timm's models it is known
    (ViT by blocks, ResNets by stages).

    Raises:
        ConfigError: a factor outside of (0, 1]; no backbone that says its layers, or none of whose parameters trains.
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
    """(prefix of its names, part, its layers, their number) of the outermost parts that say their layers."""
    found: list[str] = []
    for name, part in model.named_modules():
        prefix = f"{name}." if name else ""
        if any(prefix.startswith(outer) for outer in found):
            continue
        if layers := _layers_of(part):
            found.append(prefix)
            yield prefix, part, *layers


def _layers_of(part: nn.Module) -> tuple[LayerOf, int] | None:
    if hasattr(part, "layer_of") and hasattr(part, "num_layers"):
        return part.layer_of, part.num_layers
    if hasattr(part, "group_matcher"):  # how timm's models say it
        from timm.models import group_parameters

        layer_of = group_parameters(part, part.group_matcher(coarse=True), reverse=True)
        return layer_of.__getitem__, max(layer_of.values())
    return None


def _reason(model: nn.Module) -> str:
    if any(True for _ in _layered(model)):
        return f"no parameter of the backbone of {type(model).__name__} trains"
    backbones = [type(part).__name__ for name, part in model.named_modules() if name.rpartition(".")[2] == "backbone"]
    who = f"the backbone {backbones[0]}" if backbones else f"no part of {type(model).__name__}"
    return f"{who} {'does not say' if backbones else 'says'} how deep its layers are"
