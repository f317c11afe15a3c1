"""The parts of a model that MODEL.FREEZE_LAYERS names."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fastreid.config import ConfigError
from fastreid.utils.suggest import near_matches


def frozen_parts(model: nn.Module, names: Sequence[str]) -> tuple[list[nn.Module], list[nn.Parameter]]:
    """Return the modules of some names, and all parameters of these names or in these modules, each once.

    Args:
        model: the bare model.
        names: dotted paths in the model, as in MODEL.FREEZE_LAYERS.

    Raises:
        ConfigError: the model has no part of a name; the message has near matches.
    """
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters(remove_duplicate=False))
    modules.pop("")
    for name in names:
        if name not in modules and name not in parameters:
            near = near_matches(name, [*modules, *parameters])
            hint = f"; did you mean {' or '.join(near)}?" if near else "."
            raise ConfigError(
                f"MODEL.FREEZE_LAYERS: {type(model).__name__} has no part {name!r}{hint} Its parts: "
                f"{', '.join(child for child, _ in model.named_children())}, and what is in them, by dotted paths"
            )
    chosen = [modules[name] for name in names if name in modules]
    found = [parameter for module in chosen for parameter in module.parameters()]
    found += [parameters[name] for name in names if name in parameters]
    return chosen, list({id(parameter): parameter for parameter in found}.values())
