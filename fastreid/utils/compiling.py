"""torch.compile for parts of a model, each batch size with code of its own."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

BACKEND = "inductor"
_SHOWN = 300


@functools.cache
def compiler_problem(device: str) -> str | None:
    """Return why torch.compile does not work on a device, or None if it does: a small function is compiled and called.

    Args:
        device: the name of the device.
    """
    number = time.time_ns()  # a new program, which is in no cache

    def add(tensor: torch.Tensor) -> torch.Tensor:
        return tensor + number

    try:
        torch.compile(add, backend=BACKEND, dynamic=False)(torch.zeros(8, device=device))
    except Exception as error:  # each backend and each missing program raises an error of its own
        return f"{type(error).__name__}: {' '.join(str(error).split())[:_SHOWN]}"
    return None


def compile_module(module: nn.Module) -> None:
    """Compile the calls of a module, which stays in its place: names in its state dict are the same.

    It is compiled when it is first called, and again for each further size of a batch: code for any size would depend
    on the sizes that came before, and a resumed run would not end with the same bits.

    Args:
        module: the module.
    """
    module.compile(backend=BACKEND, dynamic=False)


class CompiledForOneSize:
    """Hooks of a model with compiled parts: in evaluation it runs as it is written for batches of another size.

    Such as the last batch of a data set. In training all batches have one size.

    Args:
        size: images of a full batch of evaluation.
    """

    def __init__(self, size: int) -> None:
        self._size = size

    def add_to(self, model: nn.Module) -> None:
        """Register the hooks.

        Args:
            model: a model, which is called with a batch or, in evaluation, with images.
        """
        model.register_forward_pre_hook(self._before)
        model.register_forward_hook(self._after, always_call=True)

    def _before(self, model: nn.Module, arguments: tuple[Any, ...]) -> None:
        batch = arguments[0] if arguments else {}
        images = batch.get("images", ()) if isinstance(batch, Mapping) else batch
        is_compiled = model.training or len(images) == self._size
        torch.compiler.set_stance("default" if is_compiled else "force_eager")

    def _after(self, model: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        torch.compiler.set_stance("default")
