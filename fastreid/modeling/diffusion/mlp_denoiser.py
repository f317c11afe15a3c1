"""A denoiser of vectors: a linear path and a residual MLP with adaptive layer norm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreid.modeling.diffusion.denoiser import VectorDenoiser
from fastreid.modeling.diffusion.vector_layers import AdaptiveBlock, LinearPath, TimeEmbedding, zero_
from fastreid.structures import Condition


class MLPDenoiser(VectorDenoiser):
    """Predicts from the noisy vector and all tokens of the condition; control is an embedding of the view.

    The residual MLP is that of RCG (Li et al., NeurIPS 2024) and MAR (Li et al., NeurIPS 2024) in small. Its output
    starts at zero.

    Args:
        dim: D, width of the vectors and the tokens.
        num_tokens: L.
        num_views: linear maps.
        width: width of the residual stream.
        depth: blocks.
        dropout: chance of zeroing a hidden number in training.
    """

    def __init__(self, *, dim: int, num_tokens: int, num_views: int, width: int, depth: int, dropout: float) -> None:
        super().__init__(dim=dim, control_dim=width)
        self.time = TimeEmbedding(width)
        self.linear = LinearPath(dim=dim, num_tokens=num_tokens, num_views=num_views, embedding_dim=width)
        self.input = nn.Linear((1 + num_tokens) * dim, width)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            AdaptiveBlock(width=width, embedding_dim=width, dropout=dropout) for _ in range(depth)
        )
        self.output = nn.Linear(width, dim)
        zero_(self.output)

    def forward(self, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        """Predict from noisy vectors [B, D] at timesteps [B] (or a scalar); returns [B, D]."""
        time, view = self.time(timesteps, noisy.shape[0]), self.view_of(condition, noisy)
        stream = self.input(torch.cat([noisy, condition.tokens.flatten(1)], dim=1))
        stream = self.drop(F.gelu(stream))
        for block in self.blocks:
            stream = block(stream, time + view)
        return self.linear(noisy, condition.tokens, time, view) + self.output(stream)
