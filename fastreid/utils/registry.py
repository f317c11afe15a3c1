"""The registry behind backbones, heads, losses, datasets, samplers and meta-architectures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fastreid.utils.errors import UserError
from fastreid.utils.suggest import explain_choice


class RegistryError(UserError, KeyError):
    """A name that is not in a registry, or is in it already."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument; a sentence should be shown as it is.
        return str(self.args[0]) if self.args else ""


class Registry:
    """Maps names to objects; a missing name is answered with near matches and the full list.

    Example::

        HEADS = Registry("head")

        @HEADS.register
        class EmbeddingHead: ...

        HEADS.register(make_part_head, name="PartHead")
        HEADS.get("EmbeddingHead")
    """

    def __init__(self, name: str) -> None:
        """``name`` says what is registered, in the singular: it is used in error sentences."""
        self.name = name
        self._objects: dict[str, Any] = {}

    def register(self, obj: Any = None, *, name: str | None = None) -> Any:
        """Register ``obj`` under ``name`` (default: its ``__name__``); also works as a decorator.

        Raises:
            RegistryError: the name is taken by another object.
        """
        if obj is None:
            return self._decorator(name)
        key = name or getattr(obj, "__name__", None)
        if not isinstance(key, str):
            raise RegistryError(f"{obj!r} has no __name__: register it in {self.name!r} with name='...'")
        if self._objects.get(key, obj) is not obj:
            raise RegistryError(f"{self.name} {key!r} is registered already; register yours under another name")
        self._objects[key] = obj
        return obj

    def _decorator(self, name: str | None) -> Callable[[Any], Any]:
        return lambda obj: self.register(obj, name=name)

    def get(self, name: str, *, key: str = "") -> Any:
        """Return the object registered under ``name``.

        Args:
            key: the config key that ``name`` is the value of, for the error message.

        Raises:
            RegistryError: there is none; the message names near matches and every legal name.
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
