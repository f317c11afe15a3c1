"""Pooling layers by the name in MODEL.HEADS.POOL_LAYER: a feature map [B, C, h, w] -> [B, C, 1, 1]."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreid.utils.registry import Registry

POOLING_REGISTRY = Registry("pooling in MODEL.HEADS.POOL_LAYER")
"""Name -> class without arguments."""


@POOLING_REGISTRY.register
class Identity(nn.Module):
    """Returns the map unchanged: for maps that are pooled already, as the class token of a ViT [B, C, 1, 1]."""

    def forward(self, maps: Tensor) -> Tensor:
        """Return the pooled maps."""
        return maps


@POOLING_REGISTRY.register
class Flatten(nn.Module):
    """Flattens a map to [B, C*h*w, 1, 1]; MODEL.BACKBONE.FEAT_DIM must be C*h*w."""

    def forward(self, maps: Tensor) -> Tensor:
        """Return the pooled maps."""
        return maps.flatten(1)[..., None, None]


@POOLING_REGISTRY.register
class GlobalAvgPool(nn.AdaptiveAvgPool2d):
    """Mean over positions."""

    def __init__(self) -> None:
        super().__init__(1)


@POOLING_REGISTRY.register
class GlobalMaxPool(nn.Module):
    """Maximum over positions.

    Positions with the same maximum share its gradient. AdaptiveMaxPool2d gives it to one of them; it has no
    deterministic gradient on GPUs, so torch refuses it with DETERMINISTIC.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Return the pooled maps."""
        return maps.amax(dim=(2, 3), keepdim=True)


@POOLING_REGISTRY.register
class GeneralizedMeanPooling(nn.Module):
    """(mean over positions of x^p)^(1/p) with a fixed p (Radenovic et al., "Fine-tuning CNN Image Retrieval", eq. 2).

    p = 1 is the mean, large p the maximum.

    Args:
        norm: p.
        output_size: height and width of the result, or one number for both.
        eps: values below it count as it, as negative numbers have no roots.
    """

    p: float | nn.Parameter

    def __init__(self, norm: float = 3.0, output_size: int | tuple[int, int] = 1, eps: float = 1e-6) -> None:
        super().__init__()
        self.p, self.output_size, self.eps = float(norm), output_size, eps

    def forward(self, maps: Tensor) -> Tensor:
        """Return the pooled maps."""
        powers = maps.clamp(min=self.eps).pow(self.p)
        return F.adaptive_avg_pool2d(powers, self.output_size).pow(1.0 / self.p)


@POOLING_REGISTRY.register
class GeneralizedMeanPoolingP(GeneralizedMeanPooling):
    """Generalised mean pooling with a p that is learnt, one for all channels.

    Args:
        norm: start of p.
        output_size: as in `GeneralizedMeanPooling`.
        eps: as in `GeneralizedMeanPooling`.
    """

    def __init__(self, norm: float = 3.0, output_size: int | tuple[int, int] = 1, eps: float = 1e-6) -> None:
        super().__init__(norm, output_size, eps)
        del self.p  # a float, which a parameter replaces
        self.p = nn.Parameter(torch.full((1,), float(norm)))


@POOLING_REGISTRY.register
class FastGlobalAvgPool(nn.Module):
    """`GlobalAvgPool` as one reduction; the name is that of fast-reid."""

    def forward(self, maps: Tensor) -> Tensor:
        """Return the pooled maps."""
        return maps.mean(dim=(2, 3), keepdim=True)


@POOLING_REGISTRY.register
class AdaptiveAvgMaxPool(nn.Module):
    """Mean plus maximum over positions."""

    def forward(self, maps: Tensor) -> Tensor:
        """Return the pooled maps."""
        return maps.mean(dim=(2, 3), keepdim=True) + maps.amax(dim=(2, 3), keepdim=True)


@POOLING_REGISTRY.register
class ClipGlobalAvgPool(nn.Module):
    """Mean over positions, clamped to 0…1."""

    def forward(self, maps: Tensor) -> Tensor:
        """Return the pooled maps."""
        return maps.mean(dim=(2, 3), keepdim=True).clamp(0.0, 1.0)
