"""The keys that are paths, in which `~` is the home folder."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

PATH_KEYS = [
    "OUTPUT_DIR",
    "IMPORTS",
    "DATASETS.ROOT",
    "MODEL.WEIGHTS",
    "MODEL.BACKBONE.PRETRAIN_PATH",
]


def with_home(value: Any) -> Any:
    """Return a path, or a list or tuple of paths, with `~` and `~USER` at the beginning expanded.

    Args:
        value: the path or paths; other values are returned unchanged.

    Raises:
        ValueError: there is no such user.
    """
    if isinstance(value, list | tuple):
        return type(value)(with_home(entry) for entry in value)
    if not isinstance(value, str) or not value.startswith("~"):
        return value
    path = os.path.expanduser(value)
    if path.startswith("~"):
        raise ValueError(f"there is no user whose home folder is {value!r}; write ./{value} for a folder of that name")
    return path


def expand_paths(cfg: Any) -> None:
    """Expand `~` in every key that is a path, in values that Python code set; merging does it for others.

    Args:
        cfg: the config, which may be frozen.

    Raises:
        ValueError: there is no such user.
    """
    was_frozen = cfg.is_frozen()
    cfg.defrost()
    for key in PATH_KEYS:
        *groups, last = key.split(".")
        node = cfg
        for group in groups:
            node = node.get(group, {})
        if last in node:  # a tree that was made before `add_section` lacks the key
            node[last] = with_home(node[last])
    if was_frozen:
        cfg.freeze()


def user_path(text: str) -> Path:
    """Return a path of an option of a command, with `~` expanded, as shells do not expand it in `--output=~/x`."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; is it a variable of the shell that is not set?")
    try:
        return Path(with_home(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
