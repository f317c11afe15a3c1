"""Adding keys to the config tree: those of methods, and those of a user's own module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from yacs.config import CfgNode as YacsNode

from fastreid.config.error import ConfigError
from fastreid.config.method_config import Key
from fastreid.config.paths import PATH_KEYS
from fastreid.config.ranges import RULES
from fastreid.config.unsupported import REASONS


def add_section(group: str, keys: Mapping[str, Any]) -> None:
    """Add keys of a user-defined module to the tree that `get_cfg` returns from now on.

    A module that `--import` or the key IMPORTS names may call it while it is imported. Its keys may then be set in
    files and on the command line. An example: `add_section("MODEL.TOY", {"WIDTH": Key(64, COUNT), "NAME": "small"})`.

    Args:
        group: full name of the group; it is made if the tree does not have it.
        keys: name in the group -> its default, or a `Key` with its default and its legal values.

    Raises:
        ConfigError: the tree has such a key with another default already.
    """
    from fastreid.config.defaults import _C

    add_keys(_C, {f"{group}.{name}": key if isinstance(key, Key) else Key(key) for name, key in keys.items()})


def add_keys(tree: YacsNode, keys: Mapping[str, Key]) -> None:
    """Add keys to a tree of defaults, and their legal values to the tables of this package.

    Args:
        tree: the defaults.
        keys: full name -> key.

    Raises:
        ConfigError: the tree has such a key with another default already.
    """
    for name, key in keys.items():
        _set_default(tree, name, key.default)
        RULES[name] = key.rule
        if key.is_path and name not in PATH_KEYS:
            PATH_KEYS.append(name)
        if key.refused:
            REASONS[name] = key.refused


def _set_default(tree: YacsNode, name: str, default: Any) -> None:
    *groups, last = name.split(".")
    node = tree
    for group in groups:
        if group not in node:
            node[group] = type(tree)()
        node = node[group]
        if not isinstance(node, YacsNode):
            raise ConfigError(f"{name} cannot be added to the config: {group} in it is a key, not a group of keys")
    if last in node and (node[last] != default or type(node[last]) is not type(default)):
        raise ConfigError(f"the config has a key {name} already, with the default {node[last]!r}: choose another name")
    node[last] = default
