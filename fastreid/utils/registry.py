"""Registries: names to objects, such as backbones, losses and data sets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastreid.utils.errors import UserError
from fastreid.utils.suggest import explain_choice


class RegistryError(UserError, KeyError):
    """A name is not in a registry, or is already taken."""

    def __str__(self) -> str:
        # KeyError would show the repr of the message.
        return str(self.args[0]) if self.args else ""


class Registry:
    """Maps names to objects; the error for a missing name lists near matches and all names.

    Example::

        HEADS = Registry("head")

        @HEADS.register
        class EmbeddingHead: ...

        HEADS.register(make_part_head, name="PartHead")
        HEADS.get("EmbeddingHead")

    Args:
        name: what is registered, in the singular, for error messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._objects: dict[str, Any] = {}

    def register(self, obj: Any = None, *, name: str | None = None, replace: bool = False) -> Any:
        """Register ``obj`` under ``name`` (default: its ``__name__``); also works as a decorator.

        Args:
            obj: what is registered.
            name: its name.
            replace: whether it takes the place of another object of this name.

        Raises:
            RegistryError: the name is taken by another object, or there is none to replace.
        """
        if obj is None:
            return lambda obj: self.register(obj, name=name, replace=replace)
        key = name or getattr(obj, "__name__", None)
        if not isinstance(key, str):
            raise RegistryError(f"{obj!r} has no __name__: register it in {self.name!r} with name='...'")
        if replace and key not in self._objects:
            raise RegistryError(f"there is nothing to replace: {explain_choice(self.name, key, self._objects)}")
        if self._objects.get(key, obj) is not obj and not replace:
            raise RegistryError(
                f"{self.name} {key!r} is registered already; register yours under another name, or with replace=True "
                "if it is to take the place of that one"
            )
        self._objects[key] = obj
        return obj

    def get(self, name: str, *, key: str = "") -> Any:
        """Return the object registered under ``name``.

        Args:
            name: the name.
            key: the config key that has this value, for the error message.

        Raises:
            RegistryError: there is no such name; the message lists near matches and all names.
        """
        try:
            return self._objects[name]
        except KeyError:
            raise RegistryError(
                explain_choice(f"{self.name} in {key}" if key else self.name, name, self._objects)
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._objects

    def __iter__(self) -> Iterator[str]:
        return iter(self._objects)

    def __len__(self) -> int:
        return len(self._objects)

    def __repr__(self) -> str:
        return f"Registry({self.name!r}: {', '.join(self._objects)})"
