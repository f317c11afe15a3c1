"""The denoiser of PISL: the global feature, the time step and the noisy patches to a prediction (section 2.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreid.modeling.diffusion.denoiser import Denoiser
from fastreid.modeling.diffusion.latent import Latent, VectorLatent
from fastreid.structures import Condition


def time_embedding(timesteps: Tensor, dim: int) -> Tensor:
    """Return sinusoids [B, dim] of timesteps [B]: first dim / 2 sines, then as many cosines, as released.

    The frequencies fall from 1 to 1 / 10000, both included. The last number is 0 if dim is odd.
    """
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, device=timesteps.device) * (-math.log(10_000) / max(half - 1, 1)))
    angles = timesteps.float()[:, None] * frequencies[None, :]
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, dim - 2 * half))


class ThetaDenoiser(Denoiser):
    """An MLP over the global feature, the time embedding and the noisy matrices of the patches.

    Args:
        feature_dim: D of the global feature, the only token of the condition.
        size: numbers of all matrices, 6 P.
        time_dim: width of the time embedding, even.
        hidden: widths of the two hidden layers.
        takes_theta: whether the noisy matrices are an input; the release leaves them out.
        first: the output before training, [P, 2, 3].
    """

    def __init__(
        self,
        *,
        feature_dim: int,
        size: int,
        time_dim: int,
        hidden: Sequence[int],
        takes_theta: bool,
        first: Tensor,
    ) -> None:
        super().__init__()
        self.feature_dim, self.time_dim, self.takes_theta = feature_dim, time_dim, takes_theta
        widths = [feature_dim + time_dim + (size if takes_theta else 0), *hidden]
        layers: list[nn.Module] = []
        for before, after in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(before, after), nn.ReLU(inplace=True)]
        output = nn.Linear(widths[-1], size)
        nn.init.zeros_(output.weight)
        output.bias.data.copy_(first.flatten())
        self.net = nn.Sequential(*layers, output)

    @property
    def context_dim(self) -> int:
        """Width of the token."""
        return self.feature_dim

    def latent_of(self, feature_dim: int) -> Latent:
        """Return the shape [6 P] of the matrices."""
        return VectorLatent(feature_dim)

    def forward(self, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        """Return the prediction [B, 6 P] for noisy matrices [B, 6 P] at timesteps [B], or a scalar."""
        time = time_embedding(timesteps.reshape(-1).expand(len(noisy)).to(noisy.device), self.time_dim)
        inputs = [condition.tokens[:, 0], time, *([noisy] if self.takes_theta else [])]
        return self.net(torch.cat(inputs, dim=1))
