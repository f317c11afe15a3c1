"""Batch triplet loss (Hermans et al., "In Defense of the Triplet Loss")."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreid.modeling.losses.utils import cosine_dist, euclidean_dist
from fastreid.utils import comm


def triplet_loss(
    embedding: Tensor,
    targets: Tensor,
    margin: float,
    norm_feat: bool,
    hard_mining: bool,
    *,
    exact_softmax: bool = False,
) -> Tensor:
    """Return the triplet loss over every anchor of a batch, a float32 scalar.

    With several processes the anchors are those of this process, and their pairs are with the images of all.

    Args:
        embedding: [B, D].
        targets: [B] identities.
        margin: 0 means soft margin, softplus(d_p - d_n); otherwise the loss is relu(d_p - d_n + margin).
        norm_feat: use 2 - 2 cos instead of the Euclidean distance, as fast-reid does.
        hard_mining: use the hardest positive and negative of each anchor; otherwise softmax-weighted means of all (AGW,
            Ye et al. 2021, equation 5). An anchor without another positive is its own positive.
        exact_softmax: the weights are the softmax of the equation. Otherwise they are those of the code of AGW and
            fast-reid, which adds 1e-6 to the sum of exponentials: negatives farther than about 13 lose their weight.
    """
    with torch.autocast(embedding.device.type, enabled=False):  # it would round the products to half precision
        compute = cosine_dist if norm_feat else euclidean_dist
        distances = compute(embedding.float(), comm.rows_of_all(embedding.float()))
    same = targets[:, None] == comm.rows_of_all(targets)[None, :]
    has_negative = ~same.all(dim=1)  # a batch of one person has no triplets
    not_negative = same & has_negative[:, None]  # a row without any is left as it is, so that it has no infinite number
    if hard_mining:
        positive = distances.masked_fill(~same, -torch.inf).amax(dim=1)
        negative = distances.masked_fill(not_negative, torch.inf).amin(dim=1)
    else:
        positive = (distances * _weights(distances, same, exact_softmax)).sum(dim=1)
        negative = (distances * _weights(-distances, ~not_negative, exact_softmax)).sum(dim=1)
    gap = positive - negative
    losses = F.relu(gap + margin) if margin > 0 else F.softplus(gap)
    # Not an index of rows: their number would have to be read from the GPU.
    return (losses * has_negative).sum() / has_negative.sum().clamp(min=1)


def _weights(scores: Tensor, mask: Tensor, is_exact: bool) -> Tensor:
    """The weights [B, N] of pairs, by their scores; a pair that is not in the mask has the weight 0."""
    if is_exact:
        return scores.masked_fill(~mask, -torch.inf).softmax(dim=1)
    scores = scores * mask  # the maximum is over zeros, too, so that negatives have exp(-distance)
    raw = (scores - scores.amax(dim=1, keepdim=True)).exp() * mask
    return raw / (raw.sum(dim=1, keepdim=True) + 1e-6)
