"""The accuracy of a batch in the log of a training."""

from collections.abc import Sequence

from torch import Tensor

from fastreid.utils.events import get_event_storage


def log_accuracy(pred_class_logits: Tensor, gt_classes: Tensor, topk: Sequence[int] = (1,)) -> None:
    """Put "cls_accuracy" into the current `EventStorage`: the share of images whose class is among the first k.

    A function of fast-reid, which models call in training. The value is read from the device, which waits for it.

    Args:
        pred_class_logits: [B, C].
        gt_classes: [B].
        topk: k, in a sequence of which only the first is logged, as in fast-reid.

    Raises:
        RuntimeError: there is no `EventStorage`.
    """
    first = pred_class_logits.detach().topk(topk[0], dim=1).indices
    share = (first == gt_classes[:, None]).any(dim=1).float().mean()
    get_event_storage().put_scalar("cls_accuracy", share.item())
