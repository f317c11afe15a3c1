"""Scales and margins of class logits before cross-entropy, by the name in MODEL.HEADS.CLS_LAYER.

Every layer has the interface of fast-reid: `layer(logits, targets)` with s = MODEL.HEADS.SCALE and
m = MODEL.HEADS.MARGIN. A target of -1 belongs to none of the classes. The given logits are left unchanged.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreid.utils.registry import Registry

SOFTMAX_REGISTRY = Registry("classifier in MODEL.HEADS.CLS_LAYER")
"""Name -> class (num_classes, scale, margin)."""


@SOFTMAX_REGISTRY.register
class Linear(nn.Module):
    """s * w.f: scaled inner products.

    Args:
        num_classes: C.
        scale: s.
        margin: m; this class does not use it.
    """

    # Whether logits must be cosines, of features and class weights of unit length.
    takes_cosines = False

    def __init__(self, num_classes: int, scale: float, margin: float) -> None:
        super().__init__()
        self.num_classes, self.s, self.m = num_classes, scale, margin

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the logits [B, C] for cross-entropy, of logits [B, C] and classes [B]."""
        return self.s * logits

    def _is_true(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return a mask [B, C] of the true class of each image."""
        return targets[:, None] == torch.arange(logits.shape[1], device=logits.device)

    def extra_repr(self) -> str:
        """Return the settings, for `print`."""
        return f"num_classes={self.num_classes}, scale={self.s}, margin={self.m}"


@SOFTMAX_REGISTRY.register
class CosSoftmax(Linear):
    """s (cos - m) for the true class, s cos for others (Wang et al., "CosFace", CVPR 2018, equation 4)."""

    takes_cosines = True

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the logits for cross-entropy, of cosines [B, C] and classes [B]."""
        return self.s * (logits - self.m * self._is_true(logits, targets))


@SOFTMAX_REGISTRY.register
class ArcSoftmax(Linear):
    """s cos(angle + m) for the true class, s cos for others (Deng et al., "ArcFace", CVPR 2019, equation 3)."""

    takes_cosines = True

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the logits for cross-entropy, of cosines [B, C] and classes [B]."""
        # The slope of the arc cosine is infinite at its ends; rounding can lead beyond them.
        angles = logits.clamp(-1 + 1e-7, 1 - 1e-7).acos()
        return self.s * torch.where(self._is_true(logits, targets), (angles + self.m).cos(), logits)


@SOFTMAX_REGISTRY.register
class CircleSoftmax(Linear):
    """s a_p (cos - (1 - m)) for the true class, s a_n (cos - m) for others (Sun et al., "Circle Loss", CVPR 2020).

    The weights a_p = max(1 + m - cos, 0) and a_n = max(cos + m, 0) are the distances of a cosine from its optimum
    (equation 5, with the relations of equation 8). They have no gradient.
    """

    takes_cosines = True

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the logits for cross-entropy, of cosines [B, C] and classes [B]."""
        weight_p = F.relu(1 + self.m - logits.detach())
        weight_n = F.relu(logits.detach() + self.m)
        true, others = weight_p * (logits - (1 - self.m)), weight_n * (logits - self.m)
        return self.s * torch.where(self._is_true(logits, targets), true, others)
