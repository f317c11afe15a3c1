"""Normalisation layers by the names in MODEL.BACKBONE.NORM and MODEL.HEADS.NORM."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from fastreid.utils.errors import ArgumentError
from fastreid.utils.registry import Registry
from fastreid.utils.suggest import explain_choice

NORM_REGISTRY = Registry("normalisation layer in NORM")
"""Name -> function (channels, num_splits) -> layer on maps [B, C, h, w]."""


class GhostBatchNorm(nn.BatchNorm2d):
    """Batch norm over parts of a batch (Hoffer et al., "Train Longer, Generalize Better", 2017).

    Running statistics are the mean of those of the parts; evaluation uses them as `nn.BatchNorm2d` does.

    Args:
        num_features: C.
        num_splits: equal parts of a training batch, each normalised separately; 1 is plain batch norm.
    """

    momentum: float

    def __init__(self, num_features: int, *, num_splits: int = 1) -> None:
        super().__init__(num_features)
        self.num_splits = num_splits

    def forward(self, maps: Tensor) -> Tensor:
        """Return the normalised maps.

        Raises:
            ArgumentError: a training batch does not divide into the parts.
        """
        if not self.training or self.num_splits == 1:
            return super().forward(maps)
        parts, batch = self.num_splits, len(maps)
        if batch % parts:
            raise ArgumentError(f"GhostBN has {parts} parts (NORM_SPLIT); a batch of {batch} images does not divide")
        running_mean, running_var = self._running_statistics()
        means, variances = running_mean.repeat(parts), running_var.repeat(parts)
        # Image i goes to part i mod `parts`; the parts become channels.
        normed = F.batch_norm(
            maps.reshape(batch // parts, parts * self.num_features, *maps.shape[2:]),
            means, variances, self.weight.repeat(parts), self.bias.repeat(parts), True, self.momentum, self.eps,
        )  # fmt: skip
        running_mean.copy_(means.view(parts, -1).mean(dim=0))
        running_var.copy_(variances.view(parts, -1).mean(dim=0))
        return normed.reshape(maps.shape)

    def _running_statistics(self) -> tuple[Tensor, Tensor]:
        """Count a batch, and return the buffers."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        return self.running_mean, self.running_var

    def extra_repr(self) -> str:
        """Return the settings, for `print`."""
        return f"{super().extra_repr()}, num_splits={self.num_splits}"


class IBN(nn.Module):
    """Instance norm on the first half of the channels, batch norm on the rest (Pan et al., "IBN-Net", ECCV 2018).

    Args:
        channels: C.
        norm: name of the norm of the second half.
        num_splits: parts of a batch, of GhostBN.
    """

    def __init__(self, channels: int, norm: str, *, num_splits: int = 1) -> None:
        super().__init__()
        self.num_instance_normed = channels // 2
        # Names as in the checkpoints of IBN-Net and fast-reid.
        self.IN = nn.InstanceNorm2d(self.num_instance_normed, affine=True)
        self.BN = get_norm(norm, channels - self.num_instance_normed, num_splits=num_splits)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the normalised maps."""
        sizes = [self.num_instance_normed, maps.shape[1] - self.num_instance_normed]
        appearance, content = maps.split(sizes, dim=1)
        return torch.cat([self.IN(appearance.contiguous()), self.BN(content.contiguous())], dim=1)


def _synchronised(channels: int, num_splits: int) -> nn.Module:
    from fastreid.layers.sync_batch_norm import SyncBatchNorm

    return SyncBatchNorm(channels)


NORM_REGISTRY.register(lambda channels, num_splits: nn.BatchNorm2d(channels), name="BN")
NORM_REGISTRY.register(_synchronised, name="syncBN")
NORM_REGISTRY.register(lambda channels, num_splits: GhostBatchNorm(channels, num_splits=num_splits), name="GhostBN")
# Statistics and affine parameters are buffers, so nothing is trained.
NORM_REGISTRY.register(lambda channels, num_splits: FrozenBatchNorm2d(channels), name="FrozenBN")
NORM_REGISTRY.register(lambda channels, num_splits: nn.GroupNorm(32, channels), name="GN")


NORMS_ON_VECTORS: dict[str, Callable[[int, int], nn.Module]] = {
    "BN": lambda channels, num_splits: nn.BatchNorm1d(channels),
    "syncBN": _synchronised,
}
"""Name -> function (channels, num_splits) -> layer on vectors [B, C]; its parameters are named as on maps."""


def get_norm(
    norm: str,
    out_channels: int,
    *,
    num_splits: int = 1,
    on_vectors: bool = False,
    weight_freeze: bool = False,
    bias_freeze: bool = False,
    weight_init: float = 1.0,
    bias_init: float = 0.0,
) -> nn.Module:
    """Return a normalisation layer; the function of fast-reid of this name.

    Args:
        norm: a name in `NORM_REGISTRY`, or in `NORMS_ON_VECTORS`.
        out_channels: channels C.
        num_splits: parts of a batch, of GhostBN.
        on_vectors: whether the layer is for vectors [B, C] instead of maps [B, C, h, w].
        weight_freeze: whether the weight stays as it starts.
        bias_freeze: whether the bias stays as it starts.
        weight_init: start of the weight.
        bias_init: start of the bias.

    Raises:
        RegistryError: no such norm; the message lists all.
        ArgumentError: no such norm on vectors, or several parts of another norm than GhostBN.
        ValueError: GN with channels that are no multiple of its 32 groups.
    """
    if num_splits != 1 and norm != "GhostBN":
        raise ArgumentError(f"NORM_SPLIT is {num_splits}, but only NORM GhostBN splits a batch, not {norm}")
    if on_vectors and norm not in NORMS_ON_VECTORS:
        raise ArgumentError(explain_choice("norm on vectors", norm, NORMS_ON_VECTORS))
    make = NORMS_ON_VECTORS[norm] if on_vectors else NORM_REGISTRY.get(norm)
    layer: Any = make(out_channels, num_splits)
    nn.init.constant_(layer.weight, weight_init)
    nn.init.constant_(layer.bias, bias_init)
    for parameter, frozen in ((layer.weight, weight_freeze), (layer.bias, bias_freeze)):
        if frozen:
            parameter.requires_grad_(False)
    return layer
