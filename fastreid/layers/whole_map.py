"""Blocks that let a ResNet look at the whole map: non-local and squeeze-and-excitation."""

import torch
from torch import Tensor, nn

from fastreid.layers.norms import get_norm


class NonLocal(nn.Module):
    """x + W(y), where y at each place is the mean over all places of theta(x_i).phi(x_j) g(x_j).

    The dot-product form of Wang et al., "Non-local Neural Networks" (CVPR 2018, equation 4), as in AGW (Ye et al.,
    2021, section 4). The norm behind W starts at zero, so that a pretrained network starts as it was.

    Args:
        channels: C.
        norm: name of the norm behind W.
        inner_channels: of theta, phi and g. In AGW's and fast-reid's code it is 1, whatever the reduction asked for;
            their published numbers and files are of that.
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
        values = self.g(maps).flatten(2)
        queries, keys = self.theta(maps).flatten(2), self.phi(maps).flatten(2)  # [B, c, N]
        # Associativity: [c, c] matrices instead of [N, N] ones; the products are the same. Divided before they are
        # summed, as half precision has no room.
        summary = torch.einsum("bcn,bdn->bcd", keys / keys.shape[2], values)
        mixed = torch.einsum("bcn,bcd->bdn", queries, summary)
        return maps + self.W(mixed.unflatten(2, maps.shape[2:]))


class SqueezeExcite(nn.Module):
    """Channels weighed by what the whole map holds (Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018).

    Args:
        channels: C.
        reduction: how many times narrower the middle is.
        others: what timm's blocks also give to an attention layer.
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
        return maps * self.fc(maps.mean(dim=(2, 3)))[..., None, None]
