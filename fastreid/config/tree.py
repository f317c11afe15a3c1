"""Reading a config tree by full names, as "MODEL.HEADS.NORM"."""

from __future__ import annotations

from collections.abc import Iterator
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
