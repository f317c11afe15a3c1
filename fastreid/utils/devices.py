"""Devices that this installation of torch can compute on, and copies between them."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from fastreid.utils.errors import ArgumentError

if TYPE_CHECKING:
    import torch

Value = TypeVar("Value")


def usable_device(name: str | torch.device, *, key: str = "device") -> str:
    """Return the name of a device that torch can use here; "auto" is "cuda" if torch sees one, else "cpu".

    Args:
        name: "auto", or a torch device or its name.
        key: what asks for the device, for the error message.

    Raises:
        ArgumentError: not a torch device, or one that this machine or this installation of torch lacks.
    """
    import torch

    name = str(name)
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of old names, which are refused below
            device = torch.device(name)
    except RuntimeError:
        hint = f": do you mean cuda:{name}?" if name.isdecimal() else ""
        raise ArgumentError(f"{key} {name!r} is no torch device{hint}; {_devices_here()}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ArgumentError(f"{key} is {name!r} but torch sees no CUDA device; {_devices_here()}")
    if not _is_usable(device):
        raise ArgumentError(f"{key} is {name!r}, a device that torch cannot use here; {_devices_here()}")
    return name


def to_device(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Return a tensor on a device; Python does not wait until a copy from the CPU to a GPU has been made.

    Only a copy from pinned memory is made in the background: another one waits until the GPU has done all that it was
    given before.

    Args:
        tensor: the tensor; it may be changed after the call.
        device: where the result is.
    """
    import torch

    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        # A tensor that has rows twice (`expand`) cannot be pinned as it is.
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def free_memory(device: torch.device | str) -> int:
    """Return the bytes that PyTorch can still allocate on a CUDA device: those of the card, and those it holds unused.

    Args:
        device: the device.
    """
    import torch

    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


class ReadOnce(Generic[Value]):
    """Reads a value of a tensor, and again only after the tensor has changed: each reading waits for a GPU.

    Args:
        read: (tensor) -> the value.
    """

    def __init__(self, read: Callable[[torch.Tensor], Value]) -> None:
        self._read = read
        self._known: tuple[torch.Tensor, int, Value] | None = None

    def __call__(self, tensor: torch.Tensor) -> Value:
        """Return the value of a tensor."""
        if tensor.is_inference():  # changes of these are not counted
            return self._read(tensor)
        known = self._known
        if known is None or known[0] is not tensor or known[1] != tensor._version:
            known = self._known = (tensor, tensor._version, self._read(tensor))
        return known[2]


@functools.cache
def _is_usable(device: torch.device) -> bool:
    import torch

    if device.type == "cpu":
        return True
    if device.type == "cuda":  # counted only: a process that is going to fork must not initialize CUDA
        return (device.index or 0) < torch.cuda.device_count()
    if device.type == "mps":
        return torch.backends.mps.is_available()
    try:
        torch.zeros(1, device=device).cpu()
    except Exception:  # each missing backend raises an error of its own
        return False
    return True


def _devices_here() -> str:
    import torch

    names = ["auto", "cpu"]
    if torch.cuda.is_available():
        names += ["cuda", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        names.append("mps")
    return f"devices here: {', '.join(names)}"
