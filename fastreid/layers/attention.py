"""Attention blocks of a ResNet, over all positions of a map: non-local and squeeze-and-excitation."""

import torch
from torch import Tensor, nn

from fastreid.layers.norms import get_norm


class NonLocal(nn.Module):
    """x + W(y), where y at each position is the mean over all positions of theta(x_i).phi(x_j) g(x_j).

    The dot-product form of Wang et al., "Non-local Neural Networks" (CVPR 2018, equation 4), as in AGW (Ye et al.,
    2021, section 4). The norm after W starts at zero, so that a pretrained network starts unchanged.

    Args:
        channels: C.
        norm: name of the norm after W.
        inner_channels: channels of theta, phi and g. In the code of AGW and fast-reid it is 1 for every reduction;
            their published results and weights were made with it.
        num_splits: parts of a batch, of GhostBN.
    """

    def __init__(self, channels: int, norm: str, *, inner_channels: int = 1, num_splits: int = 1) -> None:
        super().__init__()
        self.g = nn.Conv2d(channels, inner_channels, 1)
        self.W = nn.Sequential(
            nn.Conv2d(inner_channels, channels, 1),
            get_norm(norm, channels, num_splits=num_splits, weight_init=0.0),
        )
        self.theta = nn.Conv2d(channels, inner_channels, 1)
        self.phi = nn.Conv2d(channels, inner_channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of the same shape."""
        values = self.g(maps).flatten(2)
        queries, keys = self.theta(maps).flatten(2), self.phi(maps).flatten(2)  # [B, c, N]
        # By associativity [c, c] matrices replace [N, N] ones. Division comes before the sum, which would overflow in
        # half precision.
        summary = torch.einsum("bcn,bdn->bcd", keys / keys.shape[2], values)
        mixed = torch.einsum("bcn,bcd->bdn", queries, summary)
        return maps + self.W(mixed.unflatten(2, maps.shape[2:]))


class SqueezeExcite(nn.Module):
    """Weights channels by the mean over the map (Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018).

    Args:
        channels: C.
        reduction: the middle has C / reduction channels.
        others: further arguments that the blocks of timm pass to an attention layer; not used.
    """

    def __init__(self, channels: int, reduction: int = 16, **others: object) -> None:
        super().__init__()
        narrow = channels // reduction
        # Names as in fast-reid's checkpoints: fc.0 and fc.2.
        self.fc = nn.Sequential(
            nn.Linear(channels, narrow, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(narrow, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of the same shape."""
        return maps * self.fc(maps.mean(dim=(2, 3)))[..., None, None]
