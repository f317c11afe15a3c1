"""Small modules that several networks share."""

from timm.layers import DropPath, to_2tuple, trunc_normal_

from fastreid.layers import any_softmax, pooling
from fastreid.layers.any_softmax import SOFTMAX_REGISTRY, ArcSoftmax, CircleSoftmax, CosSoftmax, Linear
from fastreid.layers.attention import NonLocal, SqueezeExcite
from fastreid.layers.non_local import Non_local
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
from fastreid.layers.se_layer import SELayer
from fastreid.layers.weight_init import weights_init_classifier, weights_init_kaiming

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
    "Non_local",
    "SELayer",
    "SqueezeExcite",
    "any_softmax",
    "get_norm",
    "pooling",
    "to_2tuple",
    "trunc_normal_",
    "weights_init_classifier",
    "weights_init_kaiming",
]
