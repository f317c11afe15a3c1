"""Conversion of values from files and command lines to the type of the default, and advice if that is impossible."""

from __future__ import annotations

import ast
import math
import warnings
from typing import Any

from fastreid.config.error import ConfigError
from fastreid.config.paths import PATH_KEYS, with_home
from fastreid.config.ranges import shortened

# Words of YAML; they are accepted on the command line, too, in upper and lower case.
_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def parsed(value: Any) -> Any:
    """Return a word of the command line as a Python literal if it is one, otherwise unchanged."""
    if not isinstance(value, str):
        return value
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a word may look like a faulty literal
            return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # the last two: nested too deeply
        return value


def typed(value: Any, default: Any, name: str, source: str) -> Any:
    """Return a value in the type of a default: int -> float, list <-> tuple, words for True and False are converted.

    In keys that are paths, `~` is expanded.

    Args:
        value: the value.
        default: the default of the key.
        name: full name of the key.
        source: the file, or the command line.

    Raises:
        ConfigError: another type; the message says what to type, if that is known.
    """
    if isinstance(value, str) and isinstance(default, bool):
        value = _WORDS.get(value.strip().lower(), value)
    elif isinstance(value, str) and not isinstance(default, str):
        value = parsed(value)  # YAML reads (1, 2) and 1e-3 as strings
    value = _converted(value, default)
    if type(value) is not type(default):
        raise ConfigError(
            f"{name} in {source} must be of type {type(default).__name__}, like {default!r}; "
            f"got the {type(value).__name__} {shortened(value)}{_remedy(value, default, name)}"
        )
    if name not in PATH_KEYS:
        return value
    try:
        return with_home(value)
    except ValueError as error:
        raise ConfigError(f"{name} in {source}: {error}") from None


def _converted(value: Any, default: Any) -> Any:
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        # Python has integers that are too large for a float; infinity is out of every range.
        return float(value) if abs(value) <= 2**1000 else math.copysign(math.inf, value)
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(value)
    if isinstance(default, list) and isinstance(value, tuple):
        return list(value)
    return value


def _remedy(value: Any, default: Any, name: str) -> str:
    """Return what to type instead, for the error message."""
    if isinstance(default, str) and not isinstance(value, list | tuple | dict):
        return f"""; quote what is text but looks like a number: {name} "'{value}'" ('{value}' in a file)"""
    if isinstance(default, list | tuple) and isinstance(value, str) and value.strip()[:1] in ("[", "("):
        example = list(default) or ["word", 1]
        return f"""; only numbers and quoted words may stand in a list, as in {name} "{example}\""""
    if isinstance(default, list | tuple) and isinstance(value, str | int | float):
        words = [word.strip() for word in value.split(",")] if isinstance(value, str) else [value]
        if default and not any(isinstance(entry, str) for entry in default):
            return f"""; write a list of numbers: {name} "{list(default)}\""""
        return f"""; write a list, also of one: {name} "{words}\""""
    if isinstance(default, int) and isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}"
    return ""
