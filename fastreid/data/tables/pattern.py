"""Patterns of paths, such as `{camera}/{person}/{name}`: what folders and file names say about an image."""

from __future__ import annotations

import os
import re

from fastreid.data.datasets.bases import DatasetError
from fastreid.data.formats import image_suffixes
from fastreid.utils.suggest import explain_choice

FIELDS = ("person", "camera", "view", "split")
_ANY_TEXT = ("{name}", "*")
_PART = re.compile(r"(\{[^{}]*\}|\*)")


class PatternError(DatasetError):
    """A pattern that is wrong, that fits no image, or that cannot be inferred; the message says what to give."""


class PathPattern:
    """Reads the person, camera, view and split of an image from its path below a folder.

    `{person}`, `{camera}`, `{view}` and `{split}` stand for text without `/`, and `{person:d}` and so on for digits.
    `{name}` and `*` stand for any text without `/` and may occur several times. The suffix of the file is not part of
    the pattern.

    Args:
        text: the pattern, such as `{camera}/{person}/{name}` or `{person}_c{camera:d}*`.

    Raises:
        PatternError: an unknown field, a field that occurs twice, or no `{person}`.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        stem, suffix = os.path.splitext(text)
        parts = _PART.split(stem if suffix.lower() in image_suffixes() else text)
        self.fields: list[str] = []
        self._regex = re.compile("".join(map(self._regex_of, parts)))
        if "person" not in self.fields:
            raise PatternError(f"the pattern {text!r} has no {{person}}, which says who is in an image")

    def _regex_of(self, part: str) -> str:
        if part in _ANY_TEXT:
            return "[^/]*"
        if not part.startswith("{"):
            return re.escape(part)
        name, colon, kind = part[1:-1].partition(":")
        if name not in FIELDS or (colon and kind != "d"):
            legal = (*FIELDS, *(f"{field}:d" for field in FIELDS), "name")
            raise PatternError(f"the pattern {self.text!r}: {explain_choice('field', part[1:-1], legal)}")
        if name in self.fields:
            raise PatternError(f"the pattern {self.text!r} has {{{name}}} twice; write {{name}} for text to skip")
        self.fields.append(name)
        return f"(?P<{name}>{'[0-9]+' if colon else '[^/]+?'})"

    def read(self, path: str) -> dict[str, str] | None:
        """Return {field: text} of a path, or None if the path has another form.

        Args:
            path: relative to the folder of the pattern, with `/` between folders.
        """
        match = self._regex.fullmatch(os.path.splitext(path)[0])
        return match.groupdict() if match else None
