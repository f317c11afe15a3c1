"""Batch triplet loss (Hermans et al., "In Defense of the Triplet Loss")."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreid.utils import comm


def triplet_loss(embedding: Tensor, targets: Tensor, margin: float, norm_feat: bool, hard_mining: bool) -> Tensor:
    """Return the triplet loss over every anchor of a batch, a float32 scalar.

    With several processes the anchors are those of this process, and their pairs are with the images of all.

    Args:
        embedding: [B, D].
        targets: [B] identities.
        margin: 0 means soft margin, softplus(d_p - d_n); otherwise the loss is relu(d_p - d_n + margin).
        norm_feat: use the cosine distance instead of the Euclidean.
        hard_mining: use the hardest positive and negative of each anchor; otherwise softmax-weighted means of all (AGW,
            Ye et al. 2021, equation 5). An anchor without another positive is its own positive.
    """
    with torch.autocast(embedding.device.type, enabled=False):  # it would round the products to half precision
        distances = _distances(embedding.float(), comm.rows_of_all(embedding.float()), norm_feat)
    same = targets[:, None] == comm.rows_of_all(targets)[None, :]
    has_negative = ~same.all(dim=1)  # a batch of one person has no triplets
    not_negative = same & has_negative[:, None]  # a row without any is left as it is, so that it has no infinite number
    if hard_mining:
        positive = distances.masked_fill(~same, -torch.inf).amax(dim=1)
        negative = distances.masked_fill(not_negative, torch.inf).amin(dim=1)
    else:
        positive = (distances * distances.masked_fill(~same, -torch.inf).softmax(dim=1)).sum(dim=1)
        weights = (-distances).masked_fill(not_negative, -torch.inf).softmax(dim=1)
        negative = (distances * weights).sum(dim=1)
    gap = positive - negative
    losses = F.relu(gap + margin) if margin > 0 else F.softplus(gap)
    # Not an index of rows: their number would have to be read from the GPU.
    return (losses * has_negative).sum() / has_negative.sum().clamp(min=1)


def _distances(anchors: Tensor, others: Tensor, norm_feat: bool) -> Tensor:
    if norm_feat:
        return 1 - F.normalize(anchors, dim=1) @ F.normalize(others, dim=1).T
    squared = anchors.square().sum(dim=1)[:, None] + others.square().sum(dim=1)[None, :] - 2 * anchors @ others.T
    # The gradient of the root is infinite at zero.
    return squared.clamp(min=1e-12).sqrt()
