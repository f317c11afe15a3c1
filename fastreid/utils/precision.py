"""Turning autocast off, for results that half precision would change; the precision of float32 on GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

_KINDS = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def full_precision() -> Iterator[None]:
    """Turn autocast off in the block, on every kind of device for which it is on."""
    with ExitStack() as stack:
        for kind in _KINDS:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def set_float32_precision(precision: str) -> None:
    """Set how products and convolutions of float32 tensors are computed on CUDA from now on.

    On a CPU they are computed in float32 in any case, and distances of descriptors on every device.

    Args:
        precision: "ieee", in float32; or "tf32", with factors of 10 fraction bits.
    """
    # Of the two settings that torch has since 2.9, this one sets the other too; parts of torch read either.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
