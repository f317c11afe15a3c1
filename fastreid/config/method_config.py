"""What a method adds to the config: its keys, and the translation of files of other programs."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastreid.config.ranges import ANY, Rule


@dataclass(frozen=True)
class Key:
    """One key of the config.

    Args:
        default: its default; values of the key keep this type.
        rule: its legal values, a constant of `fastreid.config.ranges`.
        is_path: whether `~` is expanded in its value.
        refused: why it cannot be changed, for a key that is only accepted at its default; "" for others.
    """

    default: Any
    rule: Rule = ANY
    is_path: bool = False
    refused: str = ""


@dataclass(frozen=True)
class Rename:
    """The translation of a key of another program or of an older version.

    Args:
        key: its name here; "" if its value is not needed.
        why: a remark for the user.
        values: old value -> new one, where they differ.
        legal: the only values that the strict models of an `Origin` run with; empty if all are.
    """

    key: str = ""
    why: str = ""
    values: Mapping[Any, Any] | None = None
    legal: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Origin:
    """Another program whose config files are accepted; the names of its models identify them.

    Args:
        models: its value of MODEL.META_ARCHITECTURE -> ours.
        names: full name of another key -> its value -> ours.
        retired: keys that are renamed in all files.
        own_keys: keys that are renamed in files of this program only.
        strict: our models in whose files values outside `Rename.legal` are errors.
        in_front: (its model, the file that names it) -> what is merged before the files, as (source, tree).
    """

    models: Mapping[str, str]
    names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    retired: Mapping[str, Rename] = field(default_factory=dict)
    own_keys: Mapping[str, Rename] = field(default_factory=dict)
    strict: tuple[str, ...] = ()
    in_front: Callable[[str, str], list[tuple[str, dict]]] = lambda model, source: []


@dataclass(frozen=True)
class MethodConfig:
    """The config of a method of the library.

    Args:
        models: its values of MODEL.META_ARCHITECTURE; other models of the library do not read its keys.
        keys: full name -> key. Groups are made as needed.
        loss_models: those of its models that read the keys of the losses in MODEL.LOSSES.NAME, and no others of them.
        origin: a program whose files are translated.
    """

    models: tuple[str, ...]
    keys: Mapping[str, Key] = field(default_factory=dict)
    loss_models: tuple[str, ...] = ()
    origin: Origin | None = None


@functools.cache
def methods() -> tuple[MethodConfig, ...]:
    """Return the configs of the methods of the library.

    The import is not at the top of the file because methods import this module.
    """
    return importlib.import_module("fastreid.methods.configs").METHOD_CONFIGS
