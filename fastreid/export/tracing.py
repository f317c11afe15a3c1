"""Traces a module with torch.export, so that the graph takes batches of any size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

BATCH = "batch"


def trace(module: nn.Module, inputs: Mapping[str, Tensor]) -> ExportedProgram:
    """Return the graph of a module, whose batch has any size.

    Args:
        module: a module in eval mode, with the inputs as arguments.
        inputs: name -> example [B, …] with B of 2 or more: sizes 0 and 1 are constants in a graph.

    Raises:
        Exception: any error of torch.export, as for a module whose operations fix the size of the batch.
    """
    shapes = {name: {0: Dim(BATCH, min=1)} for name in inputs}
    with torch.no_grad(), _traceable(module):
        return torch.export.export(module, (), dict(inputs), dynamic_shapes=shapes, strict=False)


@contextmanager
def _traceable(module: nn.Module) -> Iterator[None]:
    """Replace, in the block, what computes the same but cannot be in a graph for batches of any size."""
    had_fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it is one operation, which ONNX does not have
    layers = [layer for layer in module.modules() if _is_upsampling(layer)]
    try:
        for layer in layers:
            layer.forward = partial(_upsample, layer)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(had_fast_path)
        for layer in layers:
            del layer.forward  # the method of the class is there again


def _is_upsampling(layer: nn.Module) -> bool:
    """Whether this is the layer of the UNet of Stable Diffusion that doubles height and width."""
    if type(layer).__name__ != "Upsample2D":  # its class is imported only if there is a UNet
        return False
    plain = layer.interpolate and layer.use_conv and not layer.use_conv_transpose and layer.norm is None
    return bool(plain) and layer.name == "conv"


def _upsample(layer: nn.Module, maps: Tensor, output_size: tuple[int, int] | None = None) -> Tensor:
    """As `Upsample2D.forward` of diffusers, which also branches on the size of the batch, to choose a memory layout."""
    size = {"scale_factor": 2.0} if output_size is None else {"size": output_size}
    return layer.get_submodule("conv")(F.interpolate(maps, mode="nearest", **size))
