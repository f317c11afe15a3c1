"""Compiled predictions of a denoiser, for parts of a batch that all have the same number of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastreid.structures import Condition
from fastreid.utils import compiling


def _predict(predict: Callable[..., Tensor], rows: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
    return predict(rows, timestep, condition)


class CompiledPrediction:
    """Calls a denoiser by compiled code for R rows, and as it is written for other numbers of rows.

    All steps of the sampling use the same code. On CUDA it is recorded as a CUDA graph, so that Python does not start
    the kernels one by one.

    Args:
        size: R.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._compiled: dict[bool, Callable[..., Tensor]] = {}

    def __call__(self, predict: Callable[..., Tensor], rows: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """Return the prediction.

        Args:
            predict: the denoiser.
            rows: noisy latents.
            timestep: the time, a tensor.
            condition: condition of the rows.
        """
        if len(rows) != self.size:
            with torch.compiler.set_stance("force_eager"):
                return predict(rows, timestep, condition)
        with torch.compiler.set_stance("default"):
            if rows.device.type != "cuda":
                return self._code(is_graph=False)(predict, rows, timestep, condition)
            torch.compiler.cudagraph_mark_step_begin()
            # A copy, because the next call of a graph writes to the same memory.
            return self._code(is_graph=True)(predict, rows, timestep, condition).clone()

    def _code(self, *, is_graph: bool) -> Callable[..., Tensor]:
        if is_graph not in self._compiled:
            options: dict[str, Any] = {"mode": "reduce-overhead"} if is_graph else {}
            self._compiled[is_graph] = torch.compile(_predict, backend=compiling.BACKEND, dynamic=False, **options)
        return self._compiled[is_graph]
