"""Options of an export."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fastreid.export.formats import FORMATS
from fastreid.utils.errors import ArgumentError
from fastreid.utils.suggest import explain_choice

PREPROCESSING = ("graph", "metadata")


@dataclass(frozen=True)
class ExportOptions:
    """How a model is exported.

    Args:
        format: a name in `FORMATS`.
        preprocess: "graph": the file takes RGB images as uint8 and normalizes them; "metadata": it takes normalized
            images as float32, and its metadata says how they are normalized.
        has_unit_length: whether descriptors are divided by their length.
        tolerance: greatest difference from the model, as a share of its greatest number, and of a cosine from 1.

    Raises:
        ArgumentError: an unknown word, or a tolerance that is not above 0.
    """

    format: str
    preprocess: str = "graph"
    has_unit_length: bool = True
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        for kind, word, legal in (("format", self.format, FORMATS), ("preprocess", self.preprocess, PREPROCESSING)):
            if word not in legal:
                raise ArgumentError(explain_choice(kind, word, legal))
        if not (math.isfinite(self.tolerance) and self.tolerance > 0):
            raise ArgumentError(f"the tolerance must be a number above 0, got {self.tolerance}")

    @property
    def normalizes(self) -> bool:
        """Whether the file normalizes pixels."""
        return self.preprocess == "graph"

    def check_name(self, path: object) -> None:
        """Check that the name of a file has the suffix of the format.

        Raises:
            ArgumentError: it has another.
        """
        suffix = FORMATS[self.format].suffix
        if not str(path).endswith(suffix):
            raise ArgumentError(f"{path}: a file of format {self.format} must have a name that ends with {suffix}")
