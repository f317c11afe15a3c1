"""Cross-entropy with label smoothing, fixed or adaptive."""

import torch
from torch import Tensor


def cross_entropy_loss(pred_class_logits: Tensor, gt_classes: Tensor, eps: float, alpha: float = 0.2) -> Tensor:
    """Mean cross-entropy of logits [B, C] against classes [B]; a float32 scalar.

    The true class has weight 1 - s, each other class s / (C - 1), with s = eps. A negative `eps` makes it
    adaptive per image: s = alpha times the predicted probability of the true class (fast-reid).
    Images whose loss is exactly zero do not count in the mean.
    """
    logits = pred_class_logits.float()
    log_probs = logits.log_softmax(dim=1)
    true = gt_classes.unsqueeze(1)
    if eps >= 0:
        smooth = torch.full_like(true, eps, dtype=logits.dtype)
    else:
        smooth = alpha * log_probs.detach().exp().gather(1, true)
    others = max(logits.shape[1] - 1, 1)
    weights = (smooth / others).expand_as(log_probs).scatter(1, true, 1 - smooth)
    loss = -(weights * log_probs).sum(dim=1)
    return loss.sum() / loss.count_nonzero().clamp(min=1)
