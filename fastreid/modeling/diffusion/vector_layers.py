"""Layers of the denoisers that work on vectors: time, a linear path, blocks with adaptive layer norm."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_TIME_FREQUENCIES = 128


class TimeEmbedding(nn.Module):
    """Sinusoids of the time step, and two layers (Ho et al. 2020).

    Args:
        dim: width of the embedding.
    """

    frequencies: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        exponents = torch.arange(_TIME_FREQUENCIES) / _TIME_FREQUENCIES
        self.register_buffer("frequencies", torch.exp(-math.log(10_000) * exponents), persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * _TIME_FREQUENCIES, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, timesteps: Tensor, rows: int) -> Tensor:
        """Return embeddings [rows, dim] of timesteps [rows], or of a scalar."""
        angles = timesteps.reshape(-1, 1).float() * self.frequencies
        return self.layers(torch.cat([angles.cos(), angles.sin()], dim=1)).expand(rows, -1)


class LinearPath(nn.Module):
    """A linear map from the tokens for each view, and a share of the noisy vector; both start at zero.

    A network without such a path does not reach the closed form of a regression from few people (docs/results.md).
    The maps of the views are mixed by softmax weights that follow from the view embedding.

    Args:
        dim: D, width of the vectors and the tokens.
        num_tokens: L.
        num_views: number of maps.
        embedding_dim: width of the embeddings of time and view.
    """

    def __init__(self, *, dim: int, num_tokens: int, num_views: int, embedding_dim: int) -> None:
        super().__init__()
        self.maps = nn.Linear(num_tokens * dim, num_views * dim)
        self.mix = nn.Linear(embedding_dim, num_views)
        self.share = nn.Linear(embedding_dim, dim)
        zero_(self.maps)
        zero_(self.share)

    def forward(self, noisy: Tensor, tokens: Tensor, time: Tensor, view: Tensor) -> Tensor:
        """Return vectors [B, D].

        Args:
            noisy: [B, D].
            tokens: [B, L, D].
            time: embeddings [B, E].
            view: embeddings [B, E].
        """
        mapped = self.maps(tokens.flatten(1)).unflatten(1, (-1, noisy.shape[1]))
        mixed = torch.einsum("bv,bvd->bd", self.mix(view).softmax(dim=1), mapped)
        return mixed + self.share(time) * noisy


class AdaptiveBlock(nn.Module):
    """Residual MLP whose layer norm is shifted, scaled and gated by an embedding (adaLN-Zero, Peebles & Xie 2023).

    Args:
        width: width of the residual stream.
        embedding_dim: width of the embedding.
        dropout: chance of zeroing a hidden number in training.
    """

    def __init__(self, *, width: int, embedding_dim: int, dropout: float) -> None:
        super().__init__()
        self.modulation = nn.Linear(embedding_dim, 3 * width)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width))
        self.width = width
        zero_(self.modulation)

    def forward(self, stream: Tensor, embedding: Tensor) -> Tensor:
        """Return the stream [B, W] after the block, for embeddings [B, E]."""
        shift, scale, gate = self.modulation(F.silu(embedding)).chunk(3, dim=1)
        normed = F.layer_norm(stream, (self.width,))
        return stream + gate * self.layers(normed * (1 + scale) + shift)


def zero_(layer: nn.Linear) -> None:
    """Set weight and bias of a layer to zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
