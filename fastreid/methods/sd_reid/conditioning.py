"""The condition learner: what a person looks like, and from which view to show them, as UNet tokens."""

import torch
from torch import Tensor, nn

from fastreid.config import ConfigError
from fastreid.utils.draws import BatchDraws
from fastreid.utils.errors import ArgumentError


def quick_gelu(x: Tensor) -> Tensor:
    """CLIP's activation, x * sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


class ConditionLearner(nn.Module):
    """Transformer over [e1 … e(L-1) ; centre of the requested view], and a learnt null condition.

    SD-ReID, section 3 (as released: pre-norm residual attention blocks without position table).

    Args:
        num_tokens: L, the identity conditions and the view.
        dim: D, the width of all tokens.
        depth: transformer blocks.
        num_heads: attention heads; divides `dim`.
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
        """[B, L-1, D] and [B, D] -> tokens [B, L, D]."""
        tokens = torch.cat([id_conditions, view_centre.unsqueeze(1)], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens

    def null_like(self, tokens: Tensor, *, learnt: bool = True) -> Tensor:
        """The null condition for each row of tokens [B, L, D]: the learnt one, or zeros (as released, B3)."""
        return self.null.to(tokens.dtype).expand_as(tokens) if learnt else torch.zeros_like(tokens)


def perturb(tokens: Tensor, strength: float, draws: BatchDraws) -> Tensor:
    """Add Gaussian noise of `strength` times each token's own standard deviation; [B, L, D] -> the same."""
    if strength == 0:
        return tokens
    scale = strength * tokens.std(dim=-1, keepdim=True)
    return tokens + scale * draws.normal(*tokens.shape[1:]).to(tokens.dtype)


class ConditionWhitening(nn.Module):
    """Gives the identity conditions e1 … e(L-1) zero mean and the identity as covariance, each block by itself.

    A class token's numbers are correlated, and its mean over people may be twenty times its deviation; what tells
    people apart is then lost on a generator that is trained for as long as one can wait (docs/results.md). The map
    is the symmetric one, C^(-1/2), so that a whitened token stays as close as can be to the token it was.
    Until `fit` it changes nothing.

    Args:
        num_tokens: L - 1.
        dim: D.
    """

    # A share of the mean variance added to all: directions in which people hardly vary would only amplify noise.
    SHRINKAGE = 1e-3

    def __init__(self, num_tokens: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_tokens, dim))
        self.register_buffer("map", torch.eye(dim).repeat(num_tokens, 1, 1))

    def forward(self, id_conditions: Tensor) -> Tensor:
        """[B, L-1, D] -> the same shape, in float32."""
        with torch.autocast(id_conditions.device.type, enabled=False):
            return torch.einsum("btd,tde->bte", id_conditions.float() - self.mean, self.map)

    @torch.no_grad()
    def fit(self, id_conditions: Tensor) -> None:
        """Set mean and map, in float64, from the conditions [N, L-1, D] of two or more images.

        Raises:
            ValueError: fewer than two images.
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
