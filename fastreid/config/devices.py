"""The devices that this installation of torch can compute on."""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING

from fastreid.config.error import ConfigError

if TYPE_CHECKING:
    import torch


def resolve_device(name: str | torch.device, *, key: str = "MODEL.DEVICE") -> str:
    """Return the name of a device, after checking that torch can use it; "auto" is "cuda" if there is one, else "cpu".

    Args:
        name: of the device.
        key: config key that names the device, for the error message.

    Raises:
        ConfigError: not a device of torch, or one that this machine or this installation of torch does not have.
    """
    import torch

    name = str(name)
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about old names, which are errors below
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
    if device.type == "cuda":  # only counted, as CUDA must not start in a process that will fork
        return (device.index or 0) < torch.cuda.device_count()
    if device.type == "mps":
        return torch.backends.mps.is_available()
    try:
        torch.zeros(1, device=device).cpu()
    except Exception:  # backends that are missing raise different errors
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
