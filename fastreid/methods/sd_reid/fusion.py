"""Fusion of a person feature, its latent and generated view features into one descriptor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreid.config import CfgNode, ConfigError
from fastreid.utils.suggest import explain_choice

PARTS, MODES = ("person", "latent", "generated"), ("concat", "weighted")


class Fusion:
    """Concatenates the person feature, its latent and one generated feature per view.

    Args:
        mode: "concat" (as released), or "weighted": each part has unit length, and the V generated ones are multiplied
            by sqrt(weight / V), so that the cosine of two descriptors is a fusion of scores,
            (cos_person + weight * mean_v cos_v) / (1 + weight). The latent has `latent_weight` likewise.
        weight: weight of the generated features, at least 0.
        parts: which of "person", "latent" and "generated" the descriptor holds.
        latent_weight: weight of the latent, at least 0.
        view_weights: the weight of the generated feature of each view, instead of weight / V.

    Raises:
        ConfigError: unknown mode or part, no parts, or a negative weight.
    """

    def __init__(
        self,
        mode: str,
        weight: float,
        parts: tuple[str, ...],
        latent_weight: float = 1.0,
        view_weights: Sequence[float] = (),
    ) -> None:
        if mode not in MODES:
            raise ConfigError(explain_choice("TEST.SDMODEL.FUSION", mode, MODES))
        for part in parts:
            if part not in PARTS:
                raise ConfigError(explain_choice("part in TEST.SDMODEL.PARTS", part, PARTS))
        if not parts or min(weight, latent_weight, *view_weights) < 0:
            given = ", ".join(map(str, (weight, latent_weight, *view_weights)))
            raise ConfigError(f"a descriptor needs a part and weights of 0 or more, got PARTS={parts}, weights {given}")
        self.mode, self.weight, self.parts, self.latent_weight = mode, weight, parts, latent_weight
        self.view_weights = tuple(view_weights)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Fusion:
        """Return the fusion of a config; errors as of the class."""
        keys = cfg.TEST.SDMODEL
        return cls(keys.FUSION, keys.GENERATED_WEIGHT, tuple(keys.PARTS), keys.LATENT_WEIGHT, keys.VIEW_WEIGHTS)

    @property
    def needs_generated(self) -> bool:
        """Whether the descriptor holds generated features."""
        return "generated" in self.parts

    @property
    def needs_latent(self) -> bool:
        """Whether the descriptor holds the latent."""
        return "latent" in self.parts

    def __call__(self, person: Tensor, generated: Tensor | None, latent: Tensor | None = None) -> Tensor:
        """Return descriptors [B, …] in float32.

        Args:
            person: [B, D].
            generated: [B, V, D], or None if it is not needed.
            latent: [B, D], or None if it is not needed.
        """
        pieces = []
        if "person" in self.parts:
            pieces.append(self._weighted(person[:, None], 1.0))
        if latent is not None and "latent" in self.parts:
            pieces.append(self._weighted(latent[:, None], self.latent_weight))
        if generated is not None and "generated" in self.parts:
            pieces.append(self._weighted(generated, self.weight, self.view_weights))
        return torch.cat(pieces, dim=1).float()

    def _weighted(self, rows: Tensor, weight: float, each: Sequence[float] = ()) -> Tensor:
        """[B, V, D] -> [B, VD]."""
        if self.mode == "weighted" and each:
            rows = unit_rows(rows, dim=2) * torch.tensor(each, device=rows.device).sqrt()[:, None]
        elif self.mode == "weighted":
            rows = unit_rows(rows, dim=2) * (weight / rows.shape[1]) ** 0.5
        return rows.flatten(1)


def unit_rows(rows: Tensor, dim: int) -> Tensor:
    """Return rows along `dim` as unit vectors in float32, whatever their length; rows of zeros stay zeros.

    `F.normalize` treats rows shorter than 1e-12 as zeros. Rows are therefore multiplied by a power of two first, which
    is exact. It is computed by functions that ONNX has, too.
    """
    rows = rows.float()
    greatest = rows.abs().amax(dim=dim, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    exponent = greatest.log2().floor().clamp(max=126)  # 2^-127 is not a normal number
    return F.normalize(rows * torch.exp2(-exponent), dim=dim)
