"""Small modules that several networks share."""

from timm.layers import DropPath, to_2tuple, trunc_normal_

from fastreid.layers import any_softmax, pooling
from fastreid.layers.any_softmax import SOFTMAX_REGISTRY, ArcSoftmax, CircleSoftmax, CosSoftmax, Linear
from fastreid.layers.attention import NonLocal, SqueezeExcite
from fastreid.layers.norms import IBN, NORM_REGISTRY, NORMS_ON_VECTORS, GhostBatchNorm, get_norm
from fastreid.layers.patch_stems import PATCH_STEMS
from fastreid.layers.pooling import (
    POOLING_REGISTRY,
    AdaptiveAvgMaxPool,
    ClipGlobalAvgPool,
    FastGlobalAvgPool,
    Flatten,
    GeneralizedMeanPooling,
    GeneralizedMeanPoolingP,
    GlobalAvgPool,
    GlobalMaxPool,
    Identity,
)

__all__ = [
    "IBN",
    "NORMS_ON_VECTORS",
    "NORM_REGISTRY",
    "PATCH_STEMS",
    "POOLING_REGISTRY",
    "SOFTMAX_REGISTRY",
    "AdaptiveAvgMaxPool",
    "ArcSoftmax",
    "CircleSoftmax",
    "ClipGlobalAvgPool",
    "CosSoftmax",
    "DropPath",
    "FastGlobalAvgPool",
    "Flatten",
    "GeneralizedMeanPooling",
    "GeneralizedMeanPoolingP",
    "GhostBatchNorm",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "Identity",
    "Linear",
    "NonLocal",
    "SqueezeExcite",
    "any_softmax",
    "get_norm",
    "pooling",
    "to_2tuple",
    "trunc_normal_",
]
