"""The condition learner: identity conditions and a view centre to tokens of the UNet."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastreid.config import ConfigError
from fastreid.utils.draws import BatchDraws


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
