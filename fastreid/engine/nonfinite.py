"""Steps whose losses or gradients are not finite: the state before them, and a description for the log."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from fastreid.solver.ema import alike
from fastreid.utils.errors import UserError

logger = logging.getLogger(__name__)

ADVICE = "Lower SOLVER.BASE_LR, clip gradients, or set SOLVER.AMP.DTYPE fp32"
_SHOWN = 3


class DivergenceError(UserError, FloatingPointError):
    """More consecutive steps than SOLVER.MAX_NONFINITE had a loss or a gradient that is not finite."""


class BufferBackup:
    """A copy of the buffers of a model before a step.

    A forward pass updates them (running statistics, memory banks) before its loss is known not to be finite. Buffers
    are small, so a copy per step costs little.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._copies: dict[str, Tensor] = {}

    def remember(self) -> None:
        """Copy all buffers."""
        buffers = {name: buffer.detach() for name, buffer in self._model.named_buffers()}
        known = []
        for name, buffer in buffers.items():
            copy = self._copies.get(name)
            if copy is None or copy.shape != buffer.shape or copy.device != buffer.device:
                self._copies[name] = buffer.clone()
            else:
                known.append(name)
        # In one call for each type: a network has hundreds of them, and each copy would be a kernel.
        for group in alike(self._copies, known):
            torch._foreach_copy_([self._copies[name] for name in group], [buffers[name] for name in group])

    def changed(self) -> list[str]:
        """Names of the buffers that have changed since ``remember``."""
        return [
            name
            for name, buffer in self._model.named_buffers()
            if name not in self._copies or not torch.equal(buffer, self._copies[name])
        ]

    def restore(self) -> None:
        """Restore the buffers as they were in ``remember``."""
        with torch.no_grad():
            for name, buffer in self._model.named_buffers():
                if name in self._copies:
                    buffer.copy_(self._copies[name])


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """2-norm of all gradients together, a scalar; not finite if one of them is not, or if it exceeds float32."""
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def describe(
    model: nn.Module, names: Sequence[str], losses: Tensor, batches: Sequence[Mapping[str, Any]]
) -> str | None:
    """Describe what in this process is not finite, and on which images; None if everything is finite.

    Args:
        model: the model, with gradients.
        names: names of the loss terms.
        losses: [M, T], the terms of each of M micro-batches.
        batches: the M micro-batches.
    """
    for row, batch in zip(losses.tolist(), batches, strict=True):
        terms = dict(zip(names, row, strict=True))
        if bad := {name: value for name, value in terms.items() if not math.isfinite(value)}:
            return f"non-finite loss: {bad} (all terms: {terms}); {_images(batch)}"
    gradients = [
        name.removeprefix("module.")
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not parameter.grad.isfinite().all()
    ]
    if not gradients:
        return None
    terms = dict(zip(names, losses.mean(dim=0).tolist(), strict=True))
    more = f" and {len(gradients) - _SHOWN} more" if len(gradients) > _SHOWN else ""
    return (
        f"non-finite gradient of {', '.join(gradients[:_SHOWN])}{more}, of finite losses {terms}; "
        f"{'; '.join(map(_images, batches))}"
    )


def _images(batch: Mapping[str, Any]) -> str:
    """The images with pixels that are not finite, if any; otherwise the first few. The log file has all."""
    paths = [str(path) for path in batch.get("img_paths", [])]
    if not paths:
        return "(no paths in the batch)"
    logger.debug("images of the batch: %s", ", ".join(paths))
    pixels = batch.get("images")
    if isinstance(pixels, Tensor) and len(pixels) == len(paths):
        finite = pixels.isfinite().flatten(1).all(dim=1).tolist()
        if culprits := [path for path, is_finite in zip(paths, finite, strict=True) if not is_finite]:
            return f"images with pixels that are not finite: {', '.join(culprits)}"
    more = f" and {len(paths) - _SHOWN} more, all named in log.txt" if len(paths) > _SHOWN else ""
    return f"first images: {', '.join(paths[:_SHOWN])}{more}"
