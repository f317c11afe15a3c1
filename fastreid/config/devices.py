"""Which devices this installation of torch can compute on."""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING

from fastreid.config.error import ConfigError

if TYPE_CHECKING:
    import torch


def resolve_device(name: str | torch.device, *, key: str = "MODEL.DEVICE") -> str:
    """`"auto"` as "cuda" if torch sees one, else "cpu"; any other must be a device that torch can use here.

    Args:
        key: what asks for the device, for the error message.

    Raises:
        ConfigError: not a torch device, or one that this machine or this installation of torch does not have.
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
        raise ConfigError(f"{key} {name!r} is no torch device; {_legal_here()}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"{key} is {name!r} but torch sees no CUDA device; {_legal_here()}")
    if not _is_usable(device):
        raise ConfigError(f"{key} is {name!r}, a device that torch cannot use here; {_legal_here()}")
    return name


@functools.cache
def _is_usable(device: torch.device) -> bool:
    import torch

    if device.type == "cpu":
        return True
    if device.type == "cuda":  # only counted: a process that is going to fork must not start CUDA
        return (device.index or 0) < torch.cuda.device_count()
    if device.type == "mps":
        return torch.backends.mps.is_available()
    try:
        torch.zeros(1, device=device).cpu()
    except Exception:  # each backend that is missing has an error of its own
        return False
    return True


def _legal_here() -> str:
    import torch

    names = ["auto", "cpu"]
    if torch.cuda.is_available():
        names += ["cuda", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        names.append("mps")
    return f"devices here: {', '.join(names)}"
