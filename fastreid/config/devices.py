"""The device of a config key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastreid.config.error import ConfigError
from fastreid.utils.devices import usable_device
from fastreid.utils.errors import ArgumentError

if TYPE_CHECKING:
    import torch


def resolve_device(name: str | torch.device, *, key: str = "MODEL.DEVICE") -> str:
    """Return the name of a device that torch can use here; "auto" is "cuda" if torch sees one, else "cpu".

    Args:
        name: the value of the key.
        key: what asks for the device, for the error message.

    Raises:
        ConfigError: not a torch device, or one that this machine or this installation of torch lacks.
    """
    try:
        return usable_device(name, key=key)
    except ArgumentError as error:
        raise ConfigError(str(error)) from None
