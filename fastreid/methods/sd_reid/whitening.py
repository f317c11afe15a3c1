"""Whitening of identity conditions and of identity vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastreid.utils.errors import ArgumentError


class ConditionWhitening(nn.Module):
    """Transforms the identity conditions e1 … e(L-1) to zero mean and unit covariance, each block separately.

    The numbers of a class token are correlated, and its mean over people may be twenty times its deviation. A generator
    then learns little of the differences between people in a training of usual length (docs/results.md). The map
    is the symmetric one, C^(-1/2), which changes the tokens least. Before `fit` it is the identity.

    Args:
        num_tokens: L - 1.
        dim: D.
    """

    # Share of the mean variance that is added to all, as directions with little variance would amplify noise.
    SHRINKAGE = 1e-3

    mean: Tensor
    map: Tensor

    def __init__(self, num_tokens: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_tokens, dim))
        self.register_buffer("map", torch.eye(dim).repeat(num_tokens, 1, 1))

    def forward(self, id_conditions: Tensor) -> Tensor:
        """Return whitened conditions of the same shape [B, L-1, D], in float32."""
        with torch.autocast(id_conditions.device.type, enabled=False):
            return torch.einsum("btd,tde->bte", id_conditions.float() - self.mean, self.map)

    @torch.no_grad()
    def fit(self, id_conditions: Tensor) -> None:
        """Compute mean and map, in float64, from the conditions [N, L-1, D] of two or more images.

        Raises:
            ArgumentError: fewer than two images.
        """
        if len(id_conditions) < 2:
            raise ArgumentError(f"conditions are whitened by two or more images' statistics, got {len(id_conditions)}")
        tokens = id_conditions.transpose(0, 1).double()  # [L-1, N, D]
        mean = tokens.mean(dim=1)
        tokens = tokens - mean[:, None]
        variances, directions = torch.linalg.eigh(tokens.transpose(1, 2) @ tokens / tokens.shape[1])
        shrunk = variances.clamp(min=0) + self.SHRINKAGE * variances.mean(dim=-1, keepdim=True).clamp(min=1e-12)
        self.mean.copy_(mean)
        self.map.copy_((directions * shrunk.rsqrt()[:, None, :]) @ directions.transpose(1, 2))


class LatentWhitening(ConditionWhitening):
    """Transforms identity vectors [..., D] to zero mean and unit covariance, and back.

    All directions in which people differ then have the same weight in the loss and in the cosine of two latents.

    Args:
        dim: D.
    """

    inverse: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__(1, dim)
        self.register_buffer("inverse", torch.eye(dim))

    def fit(self, identity: Tensor) -> None:
        """Compute mean and maps, in float64, from the identity vectors [N, D] of two or more images."""
        super().fit(identity[:, None])
        self.inverse.copy_(torch.linalg.inv(self.map[0].double()))

    def encode(self, identity: Tensor) -> Tensor:
        """Return whitened vectors [B, D] in float32."""
        return self(identity[:, None])[:, 0]

    def decode(self, latents: Tensor) -> Tensor:
        """Invert `encode`."""
        with torch.autocast(latents.device.type, enabled=False):
            return latents.float() @ self.inverse + self.mean[0]
