"""One config tree for every method: `get_cfg()` returns a copy of the defaults."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from fastreid.config.config import CfgNode, ConfigError, configurable
from fastreid.config.devices import resolve_device
from fastreid.config.imports import imports_in
from fastreid.config.method_config import Key
from fastreid.config.paths import expand_paths, user_path
from fastreid.config.sections import add_section
from fastreid.config.tree import value_of, with_values
from fastreid.config.unsupported import check_ranges, refuse_unsupported, require_defaults, require_unread

__all__ = [
    "CfgNode",
    "ConfigError",
    "Key",
    "add_section",
    "check_ranges",
    "configurable",
    "expand_paths",
    "get_cfg",
    "image_size",
    "imports_in",
    "refuse_unsupported",
    "require_defaults",
    "require_unread",
    "resolve_device",
    "user_path",
    "value_of",
    "with_values",
]


def get_cfg() -> CfgNode:
    """Return an unfrozen copy of the defaults."""
    from fastreid.config.defaults import _C

    return _C.clone()


@functools.cache
def _shared_cfg() -> CfgNode:
    return get_cfg()


if TYPE_CHECKING:
    cfg: CfgNode
else:

    def __getattr__(name: str) -> Any:
        """Return `cfg` of early versions of fast-reid: one tree for the whole process, made when it is first used."""
        if name == "cfg":
            return _shared_cfg()
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def image_size(cfg: CfgNode, *, is_train: bool = True) -> tuple[int, int]:
    """Return (height, width) of the images for the network: INPUT.CROP.SIZE if crops are enabled, else INPUT.SIZE_*.

    Args:
        cfg: the config.
        is_train: whether it is the size in training.
    """
    if cfg.INPUT.CROP.ENABLED:
        return tuple(cfg.INPUT.CROP.SIZE)
    return tuple(cfg.INPUT.SIZE_TRAIN if is_train else cfg.INPUT.SIZE_TEST)
