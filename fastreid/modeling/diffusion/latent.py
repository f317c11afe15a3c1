"""A feature vector as the picture-shaped latent that a Stable Diffusion UNet expects."""

import math
from dataclasses import dataclass

from torch import Tensor

from fastreid.config import ConfigError

CHANNELS = 4
# Latents of upright people: SD-ReID's 768 = 4 x 16 x 12.
_IDEAL_ASPECT, _MAX_ASPECT = 4 / 3, 2.5


@dataclass(frozen=True)
class LatentShape:
    """Height and width of the latent [4, h, w] of a feature of 4hw numbers."""

    height: int
    width: int

    @classmethod
    def of(cls, feature_dim: int) -> "LatentShape":
        """The h x w = feature_dim / 4 whose h / w is nearest to 4 / 3; 768 -> 16 x 12, 192 -> 8 x 6.

        Raises:
            ConfigError: not a multiple of 4, or only strips longer than 5:2 exist.
        """
        pixels, rest = divmod(feature_dim, CHANNELS)
        widths = [w for w in range(1, math.isqrt(pixels) + 1) if pixels % w == 0]
        shapes = [cls(pixels // w, w) for w in widths if pixels // w <= _MAX_ASPECT * w]
        if rest or not shapes:
            raise ConfigError(
                f"a feature of {feature_dim} numbers has no latent of 4 x h x w with w <= h <= {_MAX_ASPECT} w; "
                "use a backbone whose dimension has one, such as 192 (8 x 6), 384 (12 x 8) or 768 (16 x 12)"
            )
        return min(shapes, key=lambda s: abs(math.log(s.height / s.width / _IDEAL_ASPECT)))

    @property
    def shape(self) -> tuple[int, int, int]:
        return CHANNELS, self.height, self.width

    @property
    def feature_dim(self) -> int:
        return math.prod(self.shape)

    def fold(self, features: Tensor) -> Tensor:
        """[..., 4hw] -> [..., 4, h, w]."""
        return features.unflatten(-1, self.shape)

    def fold_token(self, tokens: Tensor) -> Tensor:
        """[B, 4hw] -> [B, 1, 2h, 2w], the shape in which view tokens are convolved."""
        return tokens.unflatten(-1, (1, 2 * self.height, 2 * self.width))

    @staticmethod
    def unfold(latents: Tensor) -> Tensor:
        """[..., 4, h, w] -> [..., 4hw]."""
        return latents.flatten(-3)
