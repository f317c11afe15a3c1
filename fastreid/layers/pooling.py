"""Poolings by the name in MODEL.HEADS.POOL_LAYER: a feature map [B, C, h, w] -> [B, C, 1, 1]."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreid.utils.registry import Registry

POOLING_REGISTRY = Registry("pooling in MODEL.HEADS.POOL_LAYER")
"""Name -> class without arguments."""


@POOLING_REGISTRY.register
class Identity(nn.Module):
    """The map as it is: for what is pooled already, as a ViT's class token [B, C, 1, 1]."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps


@POOLING_REGISTRY.register
class Flatten(nn.Module):
    """All values of a map in one column, [B, C*h*w, 1, 1]; MODEL.BACKBONE.FEAT_DIM must say how many there are."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.flatten(1)[..., None, None]


@POOLING_REGISTRY.register
class GlobalAvgPool(nn.AdaptiveAvgPool2d):
    """The mean over places."""

    def __init__(self) -> None:
        super().__init__(1)


@POOLING_REGISTRY.register
class GlobalMaxPool(nn.AdaptiveMaxPool2d):
    """The maximum over places."""

    def __init__(self) -> None:
        super().__init__(1)


@POOLING_REGISTRY.register
class GeneralizedMeanPooling(nn.Module):
    """(mean over places of x^p)^(1/p) with a fixed p (Radenovic et al., "Fine-tuning CNN Image Retrieval", eq. 2).

    p = 1 is the mean, large p the maximum. Values below `eps` count as `eps`, as roots of negative ones do not exist.
    """

    def __init__(self, norm: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p, self.eps = float(norm), eps

    def forward(self, maps: Tensor) -> Tensor:
        powers = maps.clamp(min=self.eps).pow(self.p)
        return F.adaptive_avg_pool2d(powers, 1).pow(1.0 / self.p)


@POOLING_REGISTRY.register
class GeneralizedMeanPoolingP(GeneralizedMeanPooling):
    """The same with a p that is learnt, one for all channels; it starts at `norm`."""

    def __init__(self, norm: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__(norm, eps)
        del self.p  # a number; a parameter takes its place
        self.p = nn.Parameter(torch.full((1,), float(norm)))


@POOLING_REGISTRY.register
class FastGlobalAvgPool(nn.Module):
    """`GlobalAvgPool` as one reduction; fast-reid's name for it."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean(dim=(2, 3), keepdim=True)


@POOLING_REGISTRY.register
class AdaptiveAvgMaxPool(nn.Module):
    """Mean plus maximum over places."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean(dim=(2, 3), keepdim=True) + maps.amax(dim=(2, 3), keepdim=True)


@POOLING_REGISTRY.register
class ClipGlobalAvgPool(nn.Module):
    """The mean over places, cut to 0…1."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean(dim=(2, 3), keepdim=True).clamp(0.0, 1.0)
