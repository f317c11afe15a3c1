"""Published image and identity counts, and reasons why those on disk may differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastreid.structures import PersonImage


@dataclass(frozen=True)
class Sizes:
    """Counts of one split; None is not published. Images with ids below 0 (junk, unnamed) are not counted.

    Attributes:
        images: number of images.
        ids: number of identities.
        note: a remark about other figures in circulation.
    """

    images: int | None = None
    ids: int | None = None
    note: str = ""

    @classmethod
    def of(cls, images: Sequence[PersonImage]) -> Sizes:
        """Count images and identities."""
        people = [image.person for image in images if image.person >= 0]
        return cls(len(people), len(set(people)))

    def explain(self, found: Sizes) -> str:
        """How `found` differs from these published counts, in a sentence; "" if it does not."""
        counts = (("images", found.images, self.images), ("people", found.ids, self.ids))
        known = [(what, has or 0, wants) for what, has, wants in counts if wants is not None]
        phrases = [f"{has:,} {what} where {wants:,} are published" for what, has, wants in known if has != wants]
        if not phrases:
            return ""
        is_short = any(has < wants for _, has, wants in known)
        why = "the copy is incomplete" if is_short else "files are there twice"
        return f"{' and '.join(phrases)}: {why}, or it is another release{f'. {self.note}' if self.note else ''}"
