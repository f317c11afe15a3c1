"""Losses on the cosines of all pairs of a batch: circle loss, and pairwise CosFace with a fixed margin."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreid.utils import comm


def pairwise_circleloss(embedding: Tensor, targets: Tensor, margin: float, gamma: float) -> Tensor:
    """Return the circle loss (Sun et al., CVPR 2020, equation 6) over every anchor of a batch; a float32 scalar.

    The weight of a pair is the distance of its cosine from its optimum, 1 + m or -m; its threshold is 1 - m or m. With
    several processes the anchors are those of this process, and their pairs are with the images of all.

    Args:
        embedding: [B, D], not normalised.
        targets: [B] identities. An anchor without a positive or without a negative adds zero to the mean.
        margin: m.
        gamma: scale of the cosines.
    """
    cosines = _cosines(embedding)
    weight_p, weight_n = (1 + margin - cosines.detach()).relu(), (cosines.detach() + margin).relu()
    return _over_anchors(-gamma * weight_p * (cosines - 1 + margin), gamma * weight_n * (cosines - margin), targets)


def pairwise_cosface(embedding: Tensor, targets: Tensor, margin: float, gamma: float) -> Tensor:
    """Return the loss that every positive is nearer than every negative by a margin, as in CosFace.

    Args:
        embedding: as in `pairwise_circleloss`.
        targets: as in `pairwise_circleloss`.
        margin: m.
        gamma: scale of the cosines.
    """
    cosines = _cosines(embedding)
    return _over_anchors(-gamma * cosines, gamma * (cosines + margin), targets)


def _cosines(embedding: Tensor) -> Tensor:
    with torch.autocast(embedding.device.type, enabled=False):  # it would round the products to half precision
        unit = F.normalize(embedding.float(), dim=1)
        return unit @ comm.rows_of_all(unit).T


def _over_anchors(of_positives: Tensor, of_negatives: Tensor, targets: Tensor) -> Tensor:
    """Return the mean over anchors of log(1 + sum of exp over positives * sum of exp over negatives), of [B, R * B]."""
    same = targets[:, None] == comm.rows_of_all(targets)[None, :]
    itself = torch.arange(len(targets), device=targets.device)
    others = torch.arange(same.shape[1], device=targets.device)
    positive = same & (others[None, :] != itself[:, None] + comm.get_rank() * len(targets))
    # The sums of other anchors are empty. Not an index of rows: their number would have to be read from the GPU.
    has_both = positive.any(dim=1) & ~same.all(dim=1)
    logits = [
        values.masked_fill(~mask & has_both[:, None], -torch.inf).logsumexp(dim=1)
        for values, mask in ((of_positives, positive), (of_negatives, ~same))
    ]
    return (F.softplus(logits[0] + logits[1]) * has_both).sum() / len(targets)
