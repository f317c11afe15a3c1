"""Cross-entropy with label smoothing, fixed or adaptive."""

import torch
from torch import Tensor


def cross_entropy_loss(pred_class_logits: Tensor, gt_classes: Tensor, eps: float, alpha: float = 0.2) -> Tensor:
    """Return the mean cross-entropy with label smoothing, a float32 scalar.

    The true class has weight 1 - s, each other class s / (C - 1). Images whose loss is exactly zero do not count in the
    mean.

    Args:
        pred_class_logits: [B, C].
        gt_classes: [B].
        eps: s. If it is negative, s is adaptive: alpha times the predicted probability of the true class (fast-reid).
        alpha: factor of the adaptive s.
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
