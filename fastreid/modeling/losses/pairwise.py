"""Losses on the cosines of all pairs of a batch: circle loss, and its plain relative with a fixed margin."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreid.utils import comm


def pairwise_circleloss(embedding: Tensor, targets: Tensor, margin: float, gamma: float) -> Tensor:
    """Circle loss (Sun et al., CVPR 2020, equation 6) over every anchor of a batch; a float32 scalar.

    Each pair is weighted by how far its cosine is from its optimum, 1 + m or -m, and held against 1 - m or m. Of
    several processes each has its own anchors, and their partners among the images of all.

    Args:
        embedding: [B, D], of any length.
        targets: [B] identities. An anchor without a partner or without a stranger adds zero to the mean.
        margin: m.
        gamma: scale of the cosines.
    """
    cosines = _cosines(embedding)
    weight_p, weight_n = (1 + margin - cosines.detach()).relu(), (cosines.detach() + margin).relu()
    return _over_anchors(-gamma * weight_p * (cosines - 1 + margin), gamma * weight_n * (cosines - margin), targets)


def pairwise_cosface(embedding: Tensor, targets: Tensor, margin: float, gamma: float) -> Tensor:
    """Every partner nearer than every stranger by a margin (as CosFace has it); arguments as `pairwise_circleloss`."""
    cosines = _cosines(embedding)
    return _over_anchors(-gamma * cosines, gamma * (cosines + margin), targets)


def _cosines(embedding: Tensor) -> Tensor:
    with torch.autocast(embedding.device.type, enabled=False):  # it would round the products to half precision
        unit = F.normalize(embedding.float(), dim=1)
        return unit @ comm.rows_of_all(unit).T


def _over_anchors(of_partners: Tensor, of_strangers: Tensor, targets: Tensor) -> Tensor:
    """Mean over anchors of log(1 + sum over partners of exp * sum over strangers of exp), from logits [B, R * B]."""
    same = targets[:, None] == comm.rows_of_all(targets)[None, :]
    itself = torch.arange(len(targets), device=targets.device)
    partner = same.clone()
    partner[itself, itself + comm.get_rank() * len(targets)] = False
    has_both = partner.any(dim=1) & ~same.all(dim=1)  # of others the sums are empty, and so is their gradient
    logits = [
        values[has_both].masked_fill(~mask[has_both], -torch.inf).logsumexp(dim=1)
        for values, mask in ((of_partners, partner), (of_strangers, ~same))
    ]
    return F.softplus(logits[0] + logits[1]).sum() / len(targets)
