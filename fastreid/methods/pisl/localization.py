"""The localisation network: feature maps to the patches of an image (PISL, section 2.1)."""

from __future__ import annotations

from torch import Tensor, nn

from fastreid.layers import get_norm


class LocalizationNetwork(nn.Module):
    """A 3 x 3 convolution, pooling and two linear layers that return the matrices of the patches.

    Args:
        in_channels: channels C of the maps.
        channels: channels of the convolution.
        hidden: width of the hidden layer.
        first: the output before training, [P, 2, 3].
        norm: a name in `fastreid.layers.NORM_REGISTRY`.
    """

    def __init__(self, *, in_channels: int, channels: int, hidden: int, first: Tensor, norm: str = "BN") -> None:
        super().__init__()
        conv = nn.Conv2d(in_channels, channels, 3)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        self.features = nn.Sequential(
            conv,
            get_norm(norm, channels),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.hidden = nn.Linear(channels, hidden)
        self.output = nn.Linear(hidden, first.numel())
        nn.init.zeros_(self.output.weight)
        self.output.bias.data.copy_(first.flatten())
        self._shape = tuple(first.shape)

    def forward(self, maps: Tensor) -> Tensor:
        """Return theta_0 [B, P, 2, 3] of maps [B, C, h, w], whose sides are at least 3."""
        return self.output(self.hidden(self.features(maps)).relu()).unflatten(1, self._shape)
