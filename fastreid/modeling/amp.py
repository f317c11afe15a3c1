"""Mixed precision: the number format for a device, and its autocast context."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from fastreid.config import ConfigError, resolve_device
from fastreid.utils.checkpointed import checkpointed
from fastreid.utils.suggest import explain_choice

logger = logging.getLogger(__name__)

AMP_DTYPES = ("auto", "bf16", "fp16", "fp32")
# x86 and ARM names of instructions that multiply bf16 matrices; without them it is emulated.
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def cpu_has_bf16() -> bool:
    """True when this CPU multiplies bf16 in hardware (read from /proc/cpuinfo; False elsewhere)."""
    return not _BF16_FLAGS.isdisjoint(_cpu_flags())


@functools.cache
def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().lower().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith(("flags", "features"))), "").split())


class NarrowConvolutionsInFloat32(TorchFunctionMode):
    """Computes convolutions with a stride, whose output is one pixel wide, in float32 instead of autocast's bf16.

    In their bf16 kernels, oneDNN 3.13 reads memory out of bounds: with AVX-512 in the gradient of the weights, with AMX
    in the forward pass as well.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch."""
        named = kwargs or {}
        if func is not torch.conv2d or not _is_narrow(*args, **named):
            return func(*args, **named)
        args, named = tree_map_only(torch.Tensor, torch.Tensor.float, (args, named))
        with torch.autocast("cpu", enabled=False):
            return func(*args, **named).to(torch.bfloat16)


def _is_narrow(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] | str = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> bool:
    """Whether a convolution, with the arguments of torch.conv2d, has a stride and an output that is one pixel wide."""
    step, pad, spread = (
        value if isinstance(value, int) else value[-1]
        for value in (stride, 0 if isinstance(padding, str) else padding, dilation)
    )
    reach = spread * (weight.shape[-1] - 1) + 1
    return step > 1 and (input.shape[-1] + 2 * pad - reach) // step == 0


class _Bf16OnCpu(contextlib.ExitStack):
    """The autocast context of bf16 on a CPU; it can be entered again after its end."""

    def __enter__(self) -> _Bf16OnCpu:
        self.enter_context(torch.autocast("cpu", dtype=torch.bfloat16))
        if "avx512f" in _cpu_flags():
            self.enter_context(NarrowConvolutionsInFloat32())
        return super().__enter__()


def amp_dtype(cfg: Any, device: torch.device | str, *, enabled: bool | None = None) -> torch.dtype | None:
    """Return the format of SOLVER.AMP on ``device``: bfloat16, float16 or None (float32).

    ``enabled`` replaces SOLVER.AMP.ENABLED if it is given, as evaluation has another key.
    "auto" is bf16 where the hardware has it (CUDA and CPU), fp16 on older CUDA devices, else none.

    Raises:
        ConfigError: unknown SOLVER.AMP.DTYPE, or fp16 asked for on a device other than CUDA.
    """
    asked, kind = cfg.SOLVER.AMP.DTYPE, torch.device(device).type
    if asked not in AMP_DTYPES:
        raise ConfigError(explain_choice("SOLVER.AMP.DTYPE", asked, AMP_DTYPES))
    if enabled is None:
        enabled = cfg.SOLVER.AMP.ENABLED
    if not enabled or asked == "fp32":
        return None
    if asked == "fp16" and kind != "cuda":
        raise ConfigError(f"SOLVER.AMP.DTYPE fp16 needs CUDA, but MODEL.DEVICE is {kind}; use auto, bf16 or fp32")
    if asked != "auto":
        return torch.float16 if asked == "fp16" else torch.bfloat16
    return _best_dtype(kind)


@functools.cache
def _best_dtype(kind: str) -> torch.dtype | None:
    """The fastest safe format of a device kind. Cached, so that the reason is logged once."""
    if kind == "cuda":
        # Emulated bf16 exists on older devices and is slow there.
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if kind == "cpu" and cpu_has_bf16():
        return torch.bfloat16
    logger.info("mixed precision is off: this %s has no bf16 instructions, so it would be slower", kind)
    return None


def store_frozen_assets(
    cfg: Any, model: nn.Module, device: torch.device | str, *, only_to_evaluate: bool = False
) -> None:
    """Convert the weights of frozen assets to the format of SOLVER.AMP, in which autocast would multiply them anyway.

    They take half the memory and are not converted in each step. Weights of linear and convolutional layers are
    converted, and only if all of their uses are under autocast: those that evaluation uses stay float32 without
    TEST.AMP.

    Args:
        cfg: the config; SOLVER.AMP.FROZEN turns it on.
        model: the bare model.
        device: the device of the model.
        only_to_evaluate: whether the model will not be trained, so that TEST.AMP decides alone.
    """
    dtype = amp_dtype(cfg, device, enabled=cfg.TEST.AMP.ENABLED if only_to_evaluate else None)
    if dtype is None or not cfg.SOLVER.AMP.FROZEN:
        return
    names = checkpointed(model).frozen_assets(only_in_training=not cfg.TEST.AMP.ENABLED)
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            for name, parameter in module.named_parameters(recurse=False):
                if f"{path}.{name}" in names and not parameter.requires_grad:
                    parameter.data = parameter.data.to(dtype)


def autocast_for(
    cfg: Any, device: torch.device | str, *, enabled: bool | None = None
) -> contextlib.AbstractContextManager[Any]:
    """Return the autocast context of SOLVER.AMP; a null context if it is off.

    Losses and scores must be computed from its outputs cast to float32.

    Args:
        cfg: the config.
        device: the device of the model.
        enabled: instead of SOLVER.AMP.ENABLED.
    """
    dtype = amp_dtype(cfg, device, enabled=enabled)
    if dtype is None:
        return contextlib.nullcontext()
    kind = torch.device(device).type
    return _Bf16OnCpu() if (kind, dtype) == ("cpu", torch.bfloat16) else torch.autocast(kind, dtype=dtype)


def evaluation_autocast(cfg: Any) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """Return a function that returns the autocast context of TEST.AMP on MODEL.DEVICE."""
    return functools.partial(autocast_for, cfg, resolve_device(cfg.MODEL.DEVICE), enabled=cfg.TEST.AMP.ENABLED)
