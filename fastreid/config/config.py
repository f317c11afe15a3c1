"""CfgNode: yacs with `_BASE_` files, and errors that name near matches and the file."""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from yacs.config import CfgNode as YacsNode

from fastreid.config.error import ConfigError
from fastreid.config.files import MAX_BYTES, MAX_DEPTH, load_chain, parse_tree
from fastreid.config.ranges import shortened
from fastreid.config.renames import ADD_ONS, modernise
from fastreid.config.tree import value_of, with_values
from fastreid.config.types import parsed, typed
from fastreid.utils.suggest import near_matches

_CHOSEN = "__chosen__"  # name of the attribute with {key: (value before, value)}


class CfgNode(YacsNode):
    """A tree of typed keys. Unknown keys are errors, and values keep the type of their default."""

    def merge_from_file(self, cfg_filename: str) -> None:
        """Merge a YAML file, and before it the files that its `_BASE_` names (relative to the file).

        `_BASE_` is a path or a list of paths; later ones override earlier ones, and the file overrides all. Names of
        older versions of fast-reid and of other programs are translated and logged (`fastreid.config.renames`).

        Args:
            cfg_filename: the file.

        Raises:
            ConfigError: unreadable file, circular `_BASE_`, a key twice, an unknown key or a value of another type; the
                tree is then unchanged.
        """
        self._merge_chain(load_chain(cfg_filename))

    def choose(self, key: str, value: Any) -> None:
        """Set a key for this process only: `dump` writes the value before, which may be another one elsewhere.

        Args:
            key: full name; the tree may be frozen.
            value: its value.
        """
        was_frozen, (group, _, name) = self.is_frozen(), key.rpartition(".")
        self.defrost()
        node = value_of(self, group)
        self.__dict__.setdefault(_CHOSEN, {})[key] = (node[name], value)
        node[name] = value
        if was_frozen:
            self.freeze()

    def dump(self, **kwargs: Any) -> str:
        """Return the tree as YAML.

        Args:
            kwargs: arguments of `yaml.safe_dump`.
        """
        chosen = self.__dict__.get(_CHOSEN, {})
        given = {key: before for key, (before, value) in chosen.items() if value_of(self, key) == value}
        return YacsNode.dump(with_values(self, given) if given else self, **kwargs)

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        """Return the keys and values of a YAML file over those of its `_BASE_`, as nested dicts, without checks.

        Args:
            filename: the file.
            allow_unsafe: must be False: tags of YAML that run code are never read.

        Raises:
            ConfigError: unreadable file, circular `_BASE_`, a key twice, or `allow_unsafe`.
        """
        if allow_unsafe:
            raise ConfigError(
                f"{filename}: allow_unsafe=True would run code that the file names; leave it out and write plain values"
            )
        whole: dict[str, Any] = {}
        for _, tree in load_chain(filename):
            whole = _merged(whole, tree)
        return whole

    def merge_from_text(self, text: str, source: str) -> None:
        """Merge a text in YAML, as `dump` returns it; `_BASE_` is an unknown key in it.

        Args:
            text: the text.
            source: where it is from, for messages.

        Raises:
            ConfigError: as for `merge_from_file`.
        """
        if len(text) > MAX_BYTES:
            raise ConfigError(f"{source} has {len(text):,} characters; a config has at most {MAX_BYTES:,}")
        self._merge_chain([(source, parse_tree(text, source))])

    def merge_from_list(self, cfg_list: list[str]) -> None:
        """Merge `[KEY, VALUE, KEY, VALUE, …]` as typed on a command line.

        Args:
            cfg_list: the pairs.

        Raises:
            ConfigError: an odd count, an unknown key or a value of another type; the tree is then unchanged.
        """
        is_odd = len(cfg_list) % 2
        for number, word in enumerate(map(str, cfg_list)):
            # A value may begin with a dash, as -1 does; an option that is one makes the count odd.
            if word.startswith("-") and (number % 2 == 0 or (is_odd and word.startswith("--"))):
                raise ConfigError(f"{word} stands among the config keys: options come before the first KEY VALUE pair")
        if is_odd:
            raise ConfigError(
                f"options come in pairs KEY VALUE, got {len(cfg_list)} words: {' '.join(map(str, cfg_list))}"
            )
        pairs = []
        for key, value in zip(cfg_list[::2], cfg_list[1::2], strict=True):
            if str(key).count(".") > MAX_DEPTH:
                raise ConfigError(f"unknown key {key:.200} … in the command line")
            tree: Any = parsed(value)
            for part in reversed(str(key).split(".")):
                tree = {part: tree}
            pairs.append(("the command line", tree))
        self._merge_chain(pairs)

    def _merge_chain(self, chain: list[tuple[str, dict]]) -> None:
        try:
            chain = modernise(chain)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        # Everything is checked before anything is set, so that an error leaves the tree unchanged.
        settings = [setting for source, tree in chain for setting in _settings(tree, self, source, prefix="")]
        for node, key, value in settings:
            node[key] = value


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return nested dicts in which values of `above` replace those of `below`."""
    both = {key: _merged(below[key], value) for key, value in above.items() if _are_dicts(below.get(key), value)}
    return below | above | both


def _are_dicts(*values: Any) -> bool:
    return all(isinstance(value, dict) for value in values)


Setting = tuple[YacsNode, str, Any]
"""(node, key, value), which a merge sets after everything was checked."""


def _settings(tree: dict, node: YacsNode, source: str, prefix: str) -> Iterator[Setting]:
    if node.is_frozen():
        raise AttributeError("this config is frozen; defrost() it before merging")
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if key not in node:
            raise ConfigError(_unknown_key(name, key, node, prefix, source))
        default = node[key]
        if isinstance(default, YacsNode):
            if not isinstance(value, dict):
                raise ConfigError(f"{name} in {source} is a group of keys, it cannot be set to {shortened(value)}")
            yield from _settings(value, default, source, prefix=f"{name}.")
        else:
            yield node, key, typed(value, default, name, source)


def _unknown_key(name: str, key: str, node: YacsNode, prefix: str, source: str) -> str:
    if name in ADD_ONS:
        return (
            f"unknown key {name} in {source}: {ADD_ONS[name]}. Leave it out, or, if code of yours reads it, add it to "
            "the config before the file is merged, as the project does"
        )
    root_hint = near_matches(str(key), list(node.keys()))
    hint = f"; did you mean {' or '.join(prefix + found for found in root_hint)}?" if root_hint else "."
    return f"unknown key {name:.200} in {source}{hint} Keys beside it: {', '.join(sorted(node.keys()))}"


def configurable(init: Callable | None = None, *, from_config: Callable | None = None) -> Callable:
    """Decorate a class or function so that it can be built from a config: `Thing(cfg, …)` calls `from_config(cfg, …)`.

    Use it without arguments on `__init__` of a class with a classmethod `from_config`, or as
    `@configurable(from_config=...)` on a function. Explicit arguments override those of the config.

    Args:
        init: the constructor of a class.
        from_config: (cfg, …) -> arguments of the function.

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

    if from_config is None:
        raise TypeError("use @configurable on __init__ of a class, or @configurable(from_config=...) on a function")
    maker_of_function = from_config

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if _has_config(args, kwargs):
                return function(**_arguments(maker_of_function, args, kwargs))
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
