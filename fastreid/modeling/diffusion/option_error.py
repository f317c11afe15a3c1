"""The error of an argument that a part of a diffusion model cannot be built with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from fastreid.config import ConfigError
from fastreid.utils.errors import ArgumentError


class OptionError(ArgumentError):
    """An argument that a part of a diffusion model cannot be built with.

    Args:
        message: a sentence that names the arguments.
        *options: the names of arguments in the message, so that a method can show its config keys instead.
    """

    def __init__(self, message: str, *options: str) -> None:
        super().__init__(message)
        self.options = options

    def with_keys(self, keys: Mapping[str, str]) -> str:
        """Return the message with config keys in place of arguments.

        Args:
            keys: argument -> full name of its key; arguments that are not in it stay.
        """
        message = str(self)
        for option in self.options:
            message = re.sub(rf"\b{option}\b", keys.get(option, option), message)
        return message


@contextmanager
def option_keys(keys: Mapping[str, str]) -> Iterator[None]:
    """Raise the `OptionError` of a part as a `ConfigError` that names config keys instead of arguments.

    Args:
        keys: argument -> full name of its key.
    """
    try:
        yield
    except OptionError as error:
        raise ConfigError(error.with_keys(keys)) from error
