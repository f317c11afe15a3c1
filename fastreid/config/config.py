"""CfgNode: yacs with `_BASE_` files, and errors that name the near matches and the file they came from."""

import ast
import functools
import inspect
import os
from collections.abc import Callable
from typing import Any

import yaml
from yacs.config import CfgNode as YacsNode

from fastreid.config.renames import ADD_ONS, modernise
from fastreid.utils.errors import UserError
from fastreid.utils.suggest import near_matches

BASE_KEY = "_BASE_"


class ConfigError(UserError, ValueError, KeyError):
    """A configuration file or command line that cannot be honoured; the message is one sentence.

    It is both a ValueError and a KeyError because yacs raises either for the same mistakes.
    """

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class CfgNode(YacsNode):
    """A tree of typed keys. New keys are refused, and values keep the type of their default."""

    def merge_from_file(self, cfg_filename: str) -> None:
        """Merge a YAML file, and below it the files that its `_BASE_` names (relative to the file).

        `_BASE_` is a path or a list of paths; later ones win over earlier ones, the file over all. Names of older
        fast-reid versions and of SD-ReID's release are translated and told (`fastreid.config.renames`).

        Raises:
            ConfigError: unreadable file, circular `_BASE_`, unknown key or value of another type.
        """
        self._merge_chain(_load_chain(cfg_filename))

    def merge_from_list(self, cfg_list: list[str]) -> None:
        """Merge `[KEY, VALUE, KEY, VALUE, …]` as typed on a command line.

        Raises:
            ConfigError: an odd count, an unknown key or a value of another type.
        """
        if len(cfg_list) % 2:
            raise ConfigError(
                f"options come in pairs KEY VALUE, got {len(cfg_list)} words: {' '.join(map(str, cfg_list))}"
            )
        pairs = []
        for key, value in zip(cfg_list[::2], cfg_list[1::2], strict=True):
            tree: Any = _parse(value)
            for part in reversed(str(key).split(".")):
                tree = {part: tree}
            pairs.append(("the command line", tree))
        self._merge_chain(pairs)

    def _merge_chain(self, chain: list[tuple[str, dict]]) -> None:
        try:
            chain = modernise(chain)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        for source, tree in chain:
            _merge(tree, self, source, prefix="")


def _load_chain(path: str, seen: tuple[str, ...] = ()) -> list[tuple[str, dict]]:
    """The file and its ancestors as (path, tree), ancestors first."""
    path = os.path.abspath(os.path.expanduser(path))
    if path in seen:
        raise ConfigError(f"{BASE_KEY} is circular: {' -> '.join((*seen, path))}")
    try:
        with open(path, encoding="utf-8") as file:
            tree = yaml.safe_load(file) or {}
    except FileNotFoundError:
        asked_by = f" (named by {BASE_KEY} in {seen[-1]})" if seen else ""
        raise ConfigError(f"no config file {path}{asked_by}{_neighbours(path)}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold KEY: VALUE lines, it holds a {type(tree).__name__}")
    bases = tree.pop(BASE_KEY, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{BASE_KEY} in {path} must be a path or a list of paths, got {bases!r}")
    chain = []
    for base in bases:
        base = os.path.join(os.path.dirname(path), os.path.expanduser(base))
        chain += _load_chain(base, (*seen, path))
    return [*chain, (path, tree)]


def _neighbours(path: str) -> str:
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        return f"; there is no folder {folder} either"
    found = near_matches(os.path.basename(path), os.listdir(folder))
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _parse(value: Any) -> Any:
    """A word of the command line as a Python literal where it is one, else as itself."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _merge(tree: dict, node: YacsNode, source: str, prefix: str) -> None:
    if node.is_frozen():
        raise AttributeError("this config is frozen; defrost() it before merging")
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if key not in node:
            raise ConfigError(_unknown_key(name, key, node, prefix, source))
        default = node[key]
        if isinstance(default, YacsNode):
            if not isinstance(value, dict):
                raise ConfigError(f"{name} in {source} is a group of keys, it cannot be set to {value!r}")
            _merge(value, default, source, prefix=f"{name}.")
        else:
            node[key] = _coerce(value, default, name, source)


def _unknown_key(name: str, key: str, node: YacsNode, prefix: str, source: str) -> str:
    if name in ADD_ONS:
        return (
            f"unknown key {name} in {source}: {ADD_ONS[name]}. Leave it out, or, if code of yours reads it, add it to "
            "the config before the file is merged, as the project does"
        )
    root_hint = near_matches(str(key), list(node.keys()))
    hint = f"; did you mean {' or '.join(prefix + found for found in root_hint)}?" if root_hint else ""
    return f"unknown key {name} in {source}{hint} Keys beside it: {', '.join(sorted(node.keys()))}"


def _coerce(value: Any, default: Any, name: str, source: str) -> Any:
    """`value` in the type of `default`; only int -> float and list <-> tuple are converted."""
    if isinstance(value, str) and not isinstance(default, str):
        value = _parse(value)  # YAML reads (1, 2) and 1e-3 as strings
    if type(value) is type(default):
        return value
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(value)
    if isinstance(default, list) and isinstance(value, tuple):
        return list(value)
    raise ConfigError(
        f"{name} in {source} must be a {type(default).__name__} like {default!r}, "
        f"got the {type(value).__name__} {value!r}"
    )


def configurable(init: Callable | None = None, *, from_config: Callable | None = None) -> Callable:
    """Let a class or function be built from a config: `Thing(cfg, …)` calls `from_config(cfg, …)`.

    Used bare on `__init__` of a class that has a classmethod `from_config`, or as
    `@configurable(from_config=...)` on a function. Arguments given explicitly win over the config's.

    Raises:
        TypeError: the class has no `from_config` classmethod.
    """
    if init is not None:

        @functools.wraps(init)
        def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
            maker = getattr(type(self), "from_config", None)
            if maker is None:
                raise TypeError(f"{type(self).__name__} uses @configurable but has no from_config classmethod")
            if _has_config(args, kwargs):
                init(self, **_arguments(maker, args, kwargs))
            else:
                init(self, *args, **kwargs)

        return wrapped

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if _has_config(args, kwargs):
                return function(**_arguments(from_config, args, kwargs))
            return function(*args, **kwargs)

        return wrapped

    return decorate


def _has_config(args: tuple, kwargs: dict) -> bool:
    return isinstance(args[0] if args else kwargs.get("cfg"), YacsNode)


def _arguments(maker: Callable, args: tuple, kwargs: dict) -> dict:
    accepted = inspect.signature(maker).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()):
        return maker(*args, **kwargs)
    own = {key: value for key, value in kwargs.items() if key in accepted}
    rest = {key: value for key, value in kwargs.items() if key not in accepted}
    return {**maker(*args, **own), **rest}
