"""The shapes in which feature vectors are diffused: folded as a Stable Diffusion UNet expects, or as they are."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from fastreid.modeling.diffusion.option_error import OptionError

CHANNELS = 4
# Latents of upright people: SD-ReID's 768 = 4 x 16 x 12.
_IDEAL_ASPECT, _MAX_ASPECT = 4 / 3, 2.5


class Latent(ABC):
    """Base class of the shapes."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of the latent of one feature."""

    @property
    def feature_dim(self) -> int:
        """Numbers of a feature."""
        return math.prod(self.shape)

    def fold(self, features: Tensor) -> Tensor:
        """Fold features [..., D] into latents [..., *shape]."""
        return features.unflatten(-1, self.shape)

    def unfold(self, latents: Tensor) -> Tensor:
        """Unfold latents [..., *shape] into features [..., D]."""
        return latents.flatten(-len(self.shape))


@dataclass(frozen=True)
class VectorLatent(Latent):
    """Features that are diffused as vectors [D].

    Args:
        dim: D.
    """

    dim: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(D,)."""
        return (self.dim,)


@dataclass(frozen=True)
class LatentShape(Latent):
    """Height and width of the latent [4, h, w] of a feature of 4hw numbers.

    Args:
        height: h.
        width: w.
    """

    height: int
    width: int

    @classmethod
    def of(cls, feature_dim: int) -> LatentShape:
        """Return the h x w = feature_dim / 4 whose h / w is nearest to 4 / 3; 768 -> 16 x 12, 192 -> 8 x 6.

        Raises:
            OptionError: not a multiple of 4, or only strips longer than 5:2 exist.
        """
        pixels, rest = divmod(feature_dim, CHANNELS)
        widths = [w for w in range(1, math.isqrt(pixels) + 1) if pixels % w == 0]
        shapes = [cls(pixels // w, w) for w in widths if pixels // w <= _MAX_ASPECT * w]
        if rest or not shapes:
            raise OptionError(
                f"a feature of {feature_dim} numbers has no latent of 4 x h x w with w <= h <= {_MAX_ASPECT} w; "
                "use a backbone whose dimension has one, such as 192 (8 x 6), 384 (12 x 8) or 768 (16 x 12)"
            )
        return min(shapes, key=lambda s: abs(math.log(s.height / s.width / _IDEAL_ASPECT)))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return CHANNELS, self.height, self.width

    def fold_token(self, tokens: Tensor) -> Tensor:
        """Fold view tokens [B, 4hw] into [B, 1, 2h, 2w], the shape in which they are convolved."""
        return tokens.unflatten(-1, (1, 2 * self.height, 2 * self.width))
