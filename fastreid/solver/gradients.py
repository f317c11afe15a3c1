"""Gradient clipping, by the norm of all gradients or by value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from torch import Tensor, nn

from fastreid.config import ConfigError
from fastreid.utils.suggest import explain_choice

CLIP_TYPES = ("norm", "value")


class Clipper(Protocol):
    """Clips the gradients of parameters in place."""

    def __call__(self, parameters: Iterable[nn.Parameter], norm: Tensor | None = None) -> object:
        """Clip the gradients; `norm` is their total 2-norm, a scalar, if it is known."""


def build_gradient_clipper(cfg: Any) -> Clipper | None:
    """Return the function that clips the gradients of a run, or None if SOLVER.CLIP_GRADIENTS is off.

    "norm" scales all gradients so that their total NORM_TYPE-norm is at most CLIP_VALUE; "value" clamps each entry to
    [-CLIP_VALUE, CLIP_VALUE]. fp16 gradients must be unscaled before.

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

    def clip_value(parameters: Iterable[nn.Parameter], norm: Tensor | None = None) -> None:
        nn.utils.clip_grad_value_(parameters, limit)

    def clip_norm(parameters: Iterable[nn.Parameter], norm: Tensor | None = None) -> None:
        if norm is None or norm_type != 2:
            nn.utils.clip_grad_norm_(parameters, limit, norm_type=norm_type)
        elif norm.device.type != "cpu" or limit / (norm + 1e-6) < 1:
            # The factor is at most 1. On a CPU a factor of 1 saves the products; a GPU would have to be waited for.
            nn.utils.clip_grads_with_norm_(parameters, limit, norm)

    return clip_norm if settings.CLIP_TYPE == "norm" else clip_value
