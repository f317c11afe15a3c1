"""Published image and identity counts, and why those on a disk may differ from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastreid.structures import PersonImage


@dataclass(frozen=True)
class Sizes:
    """Counts of one split; None is not published. Images of nobody (ids below 0) are not counted.

    Attributes:
        images, ids: how many.
        note: what is known about other figures in circulation.
    """

    images: int | None = None
    ids: int | None = None
    note: str = ""

    @classmethod
    def of(cls, images: Sequence[PersonImage]) -> Sizes:
        people = [image.person for image in images if image.person >= 0]
        return cls(len(people), len(set(people)))

    def explain(self, found: Sizes) -> str:
        """How `found` differs from these published counts, in a sentence; "" if it does not."""
        phrases = [
            f"{has:,} {what} where {wants:,} are published"
            for what, has, wants in (("images", found.images, self.images), ("people", found.ids, self.ids))
            if wants is not None and has != wants
        ]
        if not phrases:
            return ""
        short = any(
            wants is not None and has < wants for has, wants in ((found.images, self.images), (found.ids, self.ids))
        )
        why = "the copy is incomplete" if short else "files are there twice"
        return f"{' and '.join(phrases)}: {why}, or it is another release{f'. {self.note}' if self.note else ''}"
