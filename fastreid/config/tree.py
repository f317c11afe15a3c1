"""Reading a config tree by full names, as "MODEL.HEADS.NORM"."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from yacs.config import CfgNode


def value_of(cfg: CfgNode, key: str) -> Any:
    """Return the value, or the group, that a full name stands for.

    Args:
        cfg: the whole tree.
        key: as "MODEL.HEADS.NORM".

    Raises:
        KeyError: the tree has no such key.
    """
    node: Any = cfg
    for part in key.split("."):
        node = node[part]
    return node


def with_values(cfg: CfgNode, values: Mapping[str, Any]) -> CfgNode:
    """Return a frozen copy of a tree in which some keys have other values.

    Args:
        cfg: the whole tree.
        values: full name -> value.

    Raises:
        KeyError: the tree has no such key.
    """
    cfg = cfg.clone()
    cfg.defrost()
    for key, value in values.items():
        group, _, name = key.rpartition(".")
        node = value_of(cfg, group) if group else cfg
        if name not in node:
            raise KeyError(key)
        node[name] = value
    cfg.freeze()
    return cfg


def is_changed(cfg: CfgNode, defaults: CfgNode, key: str) -> bool:
    """Return whether a key has another value than the default.

    Args:
        cfg: the whole tree. If it was made before `add_section` added the key, it lacks the key, which is no change.
        defaults: the tree of defaults.
        key: full name.

    Raises:
        KeyError: the defaults have no such key.
    """
    default = value_of(defaults, key)
    try:
        return value_of(cfg, key) != default
    except KeyError:
        return False


def leaves(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the full name and the value of every key of a tree.

    Args:
        node: a tree, or a group of it.
        prefix: the full name of the group, with a dot at its end.
    """
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
