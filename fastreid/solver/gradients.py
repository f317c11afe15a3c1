"""Gradient clipping, by the norm of all gradients together or by the value of each entry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from fastreid.config import ConfigError
from fastreid.utils.suggest import explain_choice

CLIP_TYPES = ("norm", "value")


def build_gradient_clipper(cfg: Any) -> Callable[[Iterable[nn.Parameter]], object] | None:
    """Return a function that clips the gradients of parameters in place, or None when it is off.

    SOLVER.CLIP_GRADIENTS: "norm" scales all gradients together so that their NORM_TYPE-norm is at
    most CLIP_VALUE; "value" cuts each entry to [-CLIP_VALUE, CLIP_VALUE]. fp16 gradients must be
    unscaled before.

    Raises:
        ConfigError: unknown CLIP_TYPE, or a CLIP_VALUE that is not above 0.
    """
    settings = cfg.SOLVER.CLIP_GRADIENTS
    if not settings.ENABLED:
        return None
    if settings.CLIP_TYPE not in CLIP_TYPES:
        raise ConfigError(explain_choice("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", settings.CLIP_TYPE, CLIP_TYPES))
    limit, norm_type = settings.CLIP_VALUE, settings.NORM_TYPE
    if limit <= 0:
        raise ConfigError(f"SOLVER.CLIP_GRADIENTS.CLIP_VALUE must be above 0, got {limit}")
    if settings.CLIP_TYPE == "norm":
        return lambda parameters: nn.utils.clip_grad_norm_(parameters, limit, norm_type=norm_type)
    return lambda parameters: nn.utils.clip_grad_value_(parameters, limit)
