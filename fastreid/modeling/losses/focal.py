"""Focal loss: cross-entropy in which images with a high probability of their class have little weight."""

from torch import Tensor


def focal_loss(pred_class_logits: Tensor, gt_classes: Tensor, alpha: float, gamma: float) -> Tensor:
    """Return the mean of -alpha (1 - p)^gamma log p, p the probability of the true class; a float32 scalar.

    Lin et al., "Focal Loss for Dense Object Detection" (ICCV 2017, equation 5), over a softmax of all classes.

    Args:
        pred_class_logits: [B, C].
        gt_classes: [B].
        alpha: weight of the loss.
        gamma: 0 is alpha times cross-entropy; the larger, the smaller the weight of easy images.
    """
    log_p = pred_class_logits.float().log_softmax(dim=1).gather(1, gt_classes[:, None])[:, 0]
    return (-alpha * (1 - log_p.exp()).pow(gamma) * log_p).mean()
