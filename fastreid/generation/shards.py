"""Sharing the people of a stage among processes: --shard i/n."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from fastreid.utils.errors import ArgumentError

T = TypeVar("T")
_FORM = re.compile(r"([0-9]+)/([0-9]+)")


@dataclass(frozen=True)
class Shard:
    """One of `count` equal parts of the people, number `index` from 1.

    Raises:
        ArgumentError: the index is not in 1 … count.
    """

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            first = f"the first number must be 1 to {self.count}" if self.count > 0 else "the second must be 1 or more"
            raise ArgumentError(f"--shard {self.index}/{self.count}: {first}")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard of a text such as "3/8".

        Raises:
            ArgumentError: the text has another form, or the index is not in 1 … count.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise ArgumentError(f"--shard {text!r} is not i/n, such as 1/4 for the first of four parts")
        return cls(int(match[1]), int(match[2]))

    @property
    def name(self) -> str:
        """The name of its manifest."""
        return f"{self.index}of{self.count}"

    def of(self, items: Sequence[T]) -> list[T]:
        """Return every `count`-th item from the `index`-th on.

        Args:
            items: the people, in the same order in all processes.
        """
        return list(items[self.index - 1 :: self.count])
