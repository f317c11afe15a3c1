"""Distances within a batch and rows of all processes, with fast-reid's names; gradients flow through the distances."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreid.utils import comm


def concat_all_gather(tensor: Tensor) -> Tensor:
    """Return the rows [B, …] of all processes, by rank, [R * B, …], without a gradient.

    `fastreid.utils.comm.rows_of_all` keeps gradients.

    Args:
        tensor: rows; B must be the same in every process.
    """
    with torch.no_grad():
        return comm.rows_of_all(tensor.detach())


def normalize(x: Tensor, axis: int = -1) -> Tensor:
    """Return vectors of length 1 in the same directions; zeros stay zeros.

    Args:
        x: vectors of any shape.
        axis: dimension of the numbers of a vector.
    """
    return F.normalize(x, dim=axis)


def euclidean_dist(x: Tensor, y: Tensor) -> Tensor:
    """Return Euclidean distances [M, N], at least 1e-6.

    Args:
        x: [M, D].
        y: [N, D].
    """
    squared = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1)[None, :] - 2 * x @ y.T
    # The gradient of the root is infinite at zero.
    return squared.clamp(min=1e-12).sqrt()


def cosine_dist(x: Tensor, y: Tensor) -> Tensor:
    """Return 2 - 2 cos, which is the squared Euclidean distance of unit vectors, [M, N].

    Args:
        x: [M, D].
        y: [N, D].
    """
    return 2 - 2 * normalize(x) @ normalize(y).T
