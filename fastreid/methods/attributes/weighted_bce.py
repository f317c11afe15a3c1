"""Binary cross-entropy of attributes, weighed by the share of images that have them."""

import torch
import torch.nn.functional as F
from torch import Tensor


def weighted_bce(logits: Tensor, attributes: Tensor, shares: Tensor | None = None) -> Tensor:
    """Return the mean binary cross-entropy over images and attributes.

    Args:
        logits: [B, A].
        attributes: [B, A] of 0 and 1.
        shares: p [A], the share of training images that have each attribute; its losses are multiplied by exp(1 - p) in
            images that have it, and by exp(p) in others (Li et al., "DeepMAR", ACPR 2015, eq. 5, with a variance of
            1). None for no weights.

    Returns:
        A scalar, float32.
    """
    losses = F.binary_cross_entropy_with_logits(logits.float(), attributes.float(), reduction="none")
    if shares is not None:
        losses = losses * torch.exp(torch.where(attributes > 0.5, 1 - shares, shares))
    return losses.mean()
