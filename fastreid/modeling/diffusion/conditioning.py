"""The condition learner: what a person looks like, and from which view to show them, as UNet tokens."""

import torch
from torch import Tensor, nn

from fastreid.config import ConfigError


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


def perturb(tokens: Tensor, strength: float) -> Tensor:
    """Add Gaussian noise of `strength` times each token's own standard deviation; [B, L, D] -> the same."""
    if strength == 0:
        return tokens
    scale = strength * tokens.std(dim=-1, keepdim=True)
    return tokens + scale * torch.randn_like(tokens)
