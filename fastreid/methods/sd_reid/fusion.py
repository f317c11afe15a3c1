"""Fusion of a person feature and generated view features into one descriptor."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreid.config import CfgNode, ConfigError
from fastreid.utils.suggest import explain_choice

PARTS, MODES = ("person", "generated"), ("concat", "weighted")


class Fusion:
    """Concatenates the person feature and one generated feature per view.

    Args:
        mode: "concat" (as released), or "weighted": each part has unit length, and the V generated ones are multiplied
            by sqrt(weight / V), so that the cosine of two descriptors is a fusion of scores,
            (cos_person + weight * mean_v cos_v) / (1 + weight).
        weight: weight of the generated features, at least 0.
        parts: which of "person" and "generated" the descriptor holds.

    Raises:
        ConfigError: unknown mode or part, no parts, or a negative weight.
    """

    def __init__(self, mode: str, weight: float, parts: tuple[str, ...]) -> None:
        if mode not in MODES:
            raise ConfigError(explain_choice("TEST.SDMODEL.FUSION", mode, MODES))
        for part in parts:
            if part not in PARTS:
                raise ConfigError(explain_choice("part in TEST.SDMODEL.PARTS", part, PARTS))
        if not parts or weight < 0:
            raise ConfigError(
                f"a descriptor needs a part and a weight of 0 or more, got PARTS={parts}, weight {weight}"
            )
        self.mode, self.weight, self.parts = mode, weight, parts

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Fusion:
        """Return the fusion of a config; errors as of the class."""
        keys = cfg.TEST.SDMODEL
        return cls(keys.FUSION, keys.GENERATED_WEIGHT, tuple(keys.PARTS))

    @property
    def needs_generated(self) -> bool:
        """Whether the descriptor holds generated features."""
        return "generated" in self.parts

    def __call__(self, person: Tensor, generated: Tensor | None) -> Tensor:
        """Return descriptors [B, …] in float32.

        Args:
            person: [B, D].
            generated: [B, V, D], or None if it is not needed.
        """
        pieces = []
        if "person" in self.parts:
            pieces.append(person if self.mode == "concat" else unit_rows(person, dim=1))
        if generated is not None and "generated" in self.parts:
            if self.mode == "weighted":
                generated = unit_rows(generated, dim=2) * (self.weight / generated.shape[1]) ** 0.5
            pieces.append(generated.flatten(1))
        return torch.cat(pieces, dim=1).float()


def unit_rows(rows: Tensor, dim: int) -> Tensor:
    """Return rows along `dim` as unit vectors in float32, whatever their length; rows of zeros stay zeros.

    `F.normalize` treats rows shorter than 1e-12 as zeros. Rows are therefore multiplied by a power of two first, which
    is exact.
    """
    rows = rows.float()
    greatest = rows.abs().amax(dim=dim, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    power = torch.frexp(greatest).mantissa / greatest  # a power of two
    return F.normalize(rows * power, dim=dim)
