"""Centre loss: distances of features to the centre of their class (Wen et al., ECCV 2016)."""

import torch
from torch import Tensor, nn

from fastreid.utils import comm
from fastreid.utils.errors import ArgumentError


class CenterLoss(nn.Module):
    """Mean of |x - c_y|^2 / 2 over a batch (equation 2), and the update of the centres (equation 4).

    Centres are buffers: they are saved with the model, and the optimiser does not change them. After each training
    batch a centre moves by
    `alpha` * sum(x - c) / (1 + n), over the n features of its class in the batch (of all processes).

    Args:
        num_classes: C.
        feature_dim: D.
        alpha: the rate of the centres, 0 to 1.
    """

    class_centres: Tensor

    def __init__(self, num_classes: int, feature_dim: int, alpha: float) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise ArgumentError(f"MODEL.LOSSES.CENTER.ALPHA must be in 0…1, got {alpha}")
        self.alpha = alpha
        self.register_buffer("class_centres", torch.zeros(num_classes, feature_dim))

    def forward(self, features: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of features [B, D] of classes [B], a float32 scalar; in training, move the centres."""
        with torch.autocast(features.device.type, enabled=False):
            apart = features.float() - self.class_centres[targets]
            loss = apart.square().sum(dim=1).mean() / 2
            if self.training:
                self._move(apart.detach(), targets)
        return loss

    @torch.no_grad()
    def _move(self, apart: Tensor, targets: Tensor) -> None:
        sums = torch.zeros_like(self.class_centres).index_add_(0, targets, apart)
        # Not bincount, which reads the largest class from the GPU.
        counts = torch.zeros_like(sums[:, 0]).index_add_(0, targets, torch.ones_like(apart[:, 0]))
        sums, counts = comm.all_reduce_sum(sums), comm.all_reduce_sum(counts)
        self.class_centres.add_(self.alpha * sums / (1 + counts)[:, None])
