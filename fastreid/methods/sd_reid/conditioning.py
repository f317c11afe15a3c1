"""The condition learner: identity conditions and a view centre to tokens of the UNet."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastreid.config import ConfigError
from fastreid.utils.draws import BatchDraws
from fastreid.utils.errors import ArgumentError


def quick_gelu(x: Tensor) -> Tensor:
    """Return x * sigmoid(1.702 x), the activation of CLIP."""
    return x * torch.sigmoid(1.702 * x)


class ConditionLearner(nn.Module):
    """Transformer over [e1 … e(L-1) ; centre of the requested view], and a learnt null condition.

    SD-ReID, section 3 (as released: pre-norm residual attention blocks without position table).

    Args:
        num_tokens: L, the identity conditions and the view.
        dim: D, the width of all tokens.
        depth: transformer blocks.
        num_heads: attention heads; divides `dim`.

    Raises:
        ConfigError: `num_heads` does not divide `dim`.
    """

    def __init__(self, *, num_tokens: int, dim: int, depth: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ConfigError(
                f"MODEL.SDMODEL.CON_LEARNER_CONFIG.HEADS={num_heads} does not divide the feature dimension {dim}"
            )
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                dim,
                num_heads,
                4 * dim,
                dropout=0.0,
                activation=quick_gelu,
                batch_first=True,
                norm_first=True,
            )
            for _ in range(depth)
        )
        self.null = nn.Parameter(0.02 * torch.randn(num_tokens, dim))

    def forward(self, id_conditions: Tensor, view_centre: Tensor) -> Tensor:
        """Return tokens [B, L, D], of conditions [B, L-1, D] and centres [B, D]."""
        tokens = torch.cat([id_conditions, view_centre.unsqueeze(1)], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens

    def null_like(self, tokens: Tensor, *, learnt: bool = True) -> Tensor:
        """Return the null condition for each row of tokens [B, L, D]: the learnt one, or zeros (as released, B3)."""
        return self.null.to(tokens.dtype).expand_as(tokens) if learnt else torch.zeros_like(tokens)


class PlainConditions(nn.Module):
    """The identity conditions as they are, and a learnt null condition, for denoisers that mix tokens themselves.

    Args:
        num_tokens: number of identity conditions.
        dim: D.
    """

    def __init__(self, *, num_tokens: int, dim: int) -> None:
        super().__init__()
        self.null = nn.Parameter(0.02 * torch.randn(num_tokens, dim))

    def forward(self, id_conditions: Tensor, view_centre: Tensor) -> Tensor:
        """Return the conditions; the view reaches the denoiser as its control only."""
        return id_conditions

    def null_like(self, tokens: Tensor, *, learnt: bool = True) -> Tensor:
        """Return the null condition for each row, as `ConditionLearner.null_like` does."""
        return self.null.to(tokens.dtype).expand_as(tokens) if learnt else torch.zeros_like(tokens)


def perturb(tokens: Tensor, strength: float, draws: BatchDraws) -> Tensor:
    """Return tokens [B, L, D] with Gaussian noise of `strength` times the standard deviation of each token."""
    if strength == 0:
        return tokens
    scale = strength * tokens.std(dim=-1, keepdim=True)
    return tokens + scale * draws.normal(*tokens.shape[1:]).to(tokens.dtype)


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
