"""Initial values of layers, at fast-reid's module path."""

from __future__ import annotations

from timm.layers import lecun_normal_, trunc_normal_, variance_scaling_
from torch import nn

__all__ = ["lecun_normal_", "trunc_normal_", "variance_scaling_", "weights_init_classifier", "weights_init_kaiming"]


def weights_init_kaiming(m: nn.Module) -> None:
    """Initialise a linear or convolutional layer by He et al. (2015), a norm with weight 1; biases with 0.

    Typical use: ``module.apply(weights_init_kaiming)``. Other modules are left unchanged.

    Args:
        m: the module.
    """
    if isinstance(m, nn.Linear):
        nn.init.kaiming_normal_(m.weight, mode="fan_out")
    elif isinstance(m, nn.modules.conv._ConvNd):
        nn.init.kaiming_normal_(m.weight, mode="fan_in")
    elif isinstance(m, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm):
        if m.weight is not None:
            nn.init.ones_(m.weight)
    else:
        return
    if m.bias is not None:
        nn.init.zeros_(m.bias)


def weights_init_classifier(m: nn.Module) -> None:
    """Initialise a linear layer with a standard deviation of 0.001 and a bias of 0; leave other modules unchanged.

    Args:
        m: the module.
    """
    if isinstance(m, nn.Linear):
        nn.init.normal_(m.weight, std=0.001)
        if m.bias is not None:
            nn.init.zeros_(m.bias)
