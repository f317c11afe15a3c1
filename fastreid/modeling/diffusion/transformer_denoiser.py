"""A denoiser of vectors: a small transformer over the tokens of the condition (a prior, as in unCLIP)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastreid.modeling.diffusion.denoiser import VectorDenoiser
from fastreid.modeling.diffusion.option_error import OptionError
from fastreid.modeling.diffusion.vector_layers import LinearPath, TimeEmbedding, zero_
from fastreid.structures import Condition


class TransformerDenoiser(VectorDenoiser):
    """Attends from the noisy vector to the tokens of the condition, to time and to the view.

    The prediction is read at the noisy vector (Ramesh et al. 2022, section 2.2), to which a linear path is added.

    Args:
        dim: D, width of the vectors and the tokens.
        num_tokens: L.
        num_views: maps of the linear path.
        depth: blocks.
        num_heads: attention heads; divides `dim`.
        dropout: chance of zeroing a number in training.

    Raises:
        OptionError: `num_heads` does not divide `dim`.
    """

    def __init__(
        self, *, dim: int, num_tokens: int, num_views: int, depth: int, num_heads: int, dropout: float
    ) -> None:
        super().__init__(dim=dim, control_dim=dim)
        if dim % num_heads:
            raise OptionError(f"num_heads={num_heads} does not divide the feature dimension {dim}", "num_heads")
        self.time = TimeEmbedding(dim)
        self.linear = LinearPath(dim=dim, num_tokens=num_tokens, num_views=num_views, embedding_dim=dim)
        self.roles = nn.Parameter(0.02 * torch.randn(num_tokens + 3, dim))  # tokens, time, view, noisy vector
        block = nn.TransformerEncoderLayer(
            dim, num_heads, 4 * dim, dropout=dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, depth, enable_nested_tensor=False)
        self.output = nn.Linear(dim, dim)
        zero_(self.output)

    def forward(self, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        """Predict from noisy vectors [B, D] at timesteps [B] (or a scalar); returns [B, D]."""
        time, view = self.time(timesteps, noisy.shape[0]), self.view_of(condition, noisy)
        sequence = torch.cat([condition.tokens, torch.stack([time, view, noisy], dim=1)], dim=1) + self.roles
        residual = self.output(self.blocks(sequence)[:, -1])
        return self.linear(noisy, condition.tokens, time, view) + residual
