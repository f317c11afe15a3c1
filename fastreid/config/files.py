"""Reading YAML files of keys, and the files that their `_BASE_` names, with limits on size and strict checks."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from typing import Any

import yaml

from fastreid.config.error import ConfigError
from fastreid.utils.errors import sentence_of
from fastreid.utils.suggest import near_matches
from fastreid.utils.text import TextError, read_text

BASE_KEY = "_BASE_"
# Far above what configs need: the largest of this library has 8 kB, 5 levels, 300 values and 4 files.
MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_VALUES = 10_000
MAX_FILES = 100

Chain = list[tuple[str, dict]]


def load_chain(path: str) -> Chain:
    """Return a file and the files that it is based on, as (path, tree), in the order in which they are merged.

    A file that is named several times is read once, at the place where it is named last.

    Args:
        path: path of the file.

    Raises:
        ConfigError: a file cannot be read, is no YAML of keys, or has a key twice; `_BASE_` is circular.
    """
    backwards: Chain = []
    _visit(os.path.abspath(os.path.expanduser(path)), (), {}, backwards)
    return backwards[::-1]


def _visit(path: str, asked_by: tuple[str, ...], seen: dict[str, str], backwards: Chain) -> None:
    try:
        real = os.path.realpath(path)
    except ValueError as error:  # a name that no file can have
        named_by = _named_by(asked_by[-1] if asked_by else "")
        raise ConfigError(f"cannot read the config file {path!r}{named_by}: {error}") from None
    if real in map(os.path.realpath, asked_by):
        raise ConfigError(f"{BASE_KEY} is circular: {' -> '.join((*asked_by, path))}")
    if real in seen:
        return
    if len(seen) == MAX_FILES:
        raise ConfigError(f"{BASE_KEY} leads to more than {MAX_FILES} files, the last is {path}; merge some of them")
    seen[real] = path
    tree = read_tree(path, asked_by[-1] if asked_by else "")
    bases = tree.pop(BASE_KEY, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{BASE_KEY} in {path} must be a path or a list of paths, got {bases!r}")
    backwards.append((path, tree))
    for base in reversed(bases):
        base = os.path.abspath(os.path.join(os.path.dirname(path), os.path.expanduser(base)))
        _visit(base, (*asked_by, path), seen, backwards)


def read_tree(path: str, asked_by: str = "") -> dict:
    """Return the keys and values of one YAML file.

    Args:
        path: path of the file.
        asked_by: the file whose `_BASE_` names it.

    Raises:
        ConfigError: as for `load_chain`.
    """
    named_by = _named_by(asked_by)
    try:
        _check_file(path, named_by)
        text = read_text(path)
    except FileNotFoundError:
        raise ConfigError(f"no config file {path}{named_by}{_neighbours(path)}") from None
    except ConfigError:
        raise
    except TextError as error:
        raise ConfigError(str(error)) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the config file {path!r}{named_by}: {sentence_of(error) or error}") from error
    return parse_tree(text, path)


def parse_tree(text: str, source: str) -> dict:
    """Return the keys and values of a text in YAML.

    Args:
        text: the text.
        source: where it is from, for messages.

    Raises:
        ConfigError: it is no YAML of keys, or has a key twice.
    """
    tree = _parsed(text, source)
    if not isinstance(tree, dict):
        raise ConfigError(f"{source} must hold KEY: VALUE lines, it holds a {type(tree).__name__}")
    return tree


def _named_by(asked_by: str) -> str:
    return f" (named by {BASE_KEY} in {asked_by})" if asked_by else ""


def _check_file(path: str, named_by: str) -> None:
    """Check that a path is a regular file of reasonable size; a pipe or a device may be endless."""
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"{path}{named_by} is a folder, where a config file is wanted")
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"{path}{named_by} is a pipe or a device; a config must be a regular file")
    if found.st_size > MAX_BYTES:
        raise ConfigError(f"{path}{named_by} has {found.st_size:,} bytes; a config has at most {MAX_BYTES:,}")


def _neighbours(path: str) -> str:
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        return f"; there is no folder {folder} either"
    try:
        found = near_matches(os.path.basename(path), os.listdir(folder))
    except OSError:
        return ""
    return f"; did you mean {' or '.join(found)}?" if found else ""


class _Loader(yaml.SafeLoader):
    """A loader that raises before a document gets too deep."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node, and count its depth."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ConfigError(f"line {self.peek_event().start_mark.line + 1} is nested deeper than {MAX_DEPTH} levels")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int | float:
    """Return a number, unless YAML 1.1 reads another one than most people: 010 is 8 there, and 1:30 is 90.

    Raises:
        ConfigError: it is such a number.
    """
    is_whole = node.tag == _INT
    value = loader.construct_yaml_int(node) if is_whole else loader.construct_yaml_float(node)
    kind = "octal" if is_whole and _OCTAL.fullmatch(node.value) else "base 60" if ":" in node.value else ""
    if kind:
        raise ConfigError(
            f"line {node.start_mark.line + 1}: YAML reads {node.value} as {value} ({kind}); "
            f"write {value}, or quote what is text"
        )
    return value


_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_MERGE = "tag:yaml.org,2002:merge"
_OCTAL = re.compile("[-+]?0[0-7_]+")
_Loader.add_constructor(_INT, _number)
_Loader.add_constructor(_FLOAT, _number)


def _parsed(text: str, path: str) -> Any:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return {}
        _measure(node, {}, ())
        _check_keys(node, loader)
        tree = loader.construct_document(node)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path} is not valid YAML{where}: {error.problem or error.context}") from None
    except Exception as error:  # constructors of tags may raise anything
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    return {} if tree is None else tree


def _measure(node: yaml.Node, known: dict[int, tuple[int, int]], above: tuple[int, ...]) -> tuple[int, int]:
    """Return the number of values and of levels of a node, with its aliases.

    Raises:
        ConfigError: too many, or an alias contains itself.
    """
    line = node.start_mark.line + 1
    if id(node) in above:
        raise ConfigError(f"an alias of what begins in line {line} is a part of it")
    if id(node) not in known:
        sizes = [_measure(child, known, (*above, id(node))) for child in _children(node)]
        known[id(node)] = 1 + sum(count for count, _ in sizes), 1 + max((levels for _, levels in sizes), default=0)
    count, levels = known[id(node)]
    if count > MAX_VALUES:
        raise ConfigError(f"what begins in line {line} has more than {MAX_VALUES:,} values, with its aliases")
    if levels > MAX_DEPTH:
        raise ConfigError(f"what begins in line {line} is nested deeper than {MAX_DEPTH} levels, with its aliases")
    return count, levels


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _check_keys(node: yaml.Node, loader: _Loader) -> None:
    """Check the keys of a file.

    Raises:
        ConfigError: a key is no word, or is in the file twice, with or without dots.
    """
    lines: dict[str, int] = {}
    for name, line in _names(node, ""):
        if name in lines:
            raise ConfigError(
                f"{name} stands in it twice, in line {lines[name]} and in line {line}, and only one of them can count: "
                "put them together"
            )
        lines[name] = line


def _names(node: yaml.Node, prefix: str) -> Iterator[tuple[str, int]]:
    """Yield the full names of the groups and keys below a node, and their lines."""
    if isinstance(node, yaml.SequenceNode):
        for number, entry in enumerate(node.value):
            yield from _names(entry, f"{prefix}{number}.")
    if not isinstance(node, yaml.MappingNode):
        return
    merged: list[yaml.Node] = []
    own = set()
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or not key.value:
            raise ConfigError(f"the key in line {line} is no word")
        if key.tag == _MERGE:
            merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
            continue
        own.add(key.value)
        yield f"{prefix}{key.value}", line
        yield from _names(value, f"{prefix}{key.value}.")
    for group in merged:  # keys beside << replace those that it merges
        yield from ((f"{prefix}{name}", line) for name, line in _names(group, "") if name.split(".")[0] not in own)
