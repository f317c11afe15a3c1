"""The keys that are paths, in which `~` stands for the home folder."""

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
    "KD.MODEL_CONFIG",
    "KD.MODEL_WEIGHTS",
]


def with_home(value: Any) -> Any:
    """A path, or a list or tuple of paths, with `~` and `~USER` at its beginning expanded.

    Raises:
        ValueError: a user that this machine does not know.
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
    """Expand `~` in every key that is a path, as merging does; for values that Python code set. Also if it is frozen.

    Raises:
        ValueError: a user that this machine does not know.
    """
    was_frozen = cfg.is_frozen()
    cfg.defrost()
    for key in PATH_KEYS:
        *groups, last = key.split(".")
        node = cfg
        for group in groups:
            node = node[group]
        node[last] = with_home(node[last])
    if was_frozen:
        cfg.freeze()


def user_path(text: str) -> Path:
    """A path as typed, for an option of a command: shells leave the `~` of `--output=~/x` to the program."""
    try:
        return Path(with_home(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
