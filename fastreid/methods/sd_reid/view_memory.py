"""View memory bank: the mean view token of each view, which is used when a view is requested."""

from operator import methodcaller

import torch
from torch import Tensor, nn

from fastreid.config import ConfigError
from fastreid.utils import comm
from fastreid.utils.devices import ReadOnce


class ViewMemoryBank(nn.Module):
    """One centre per view: m <- momentum * batch mean + (1 - momentum) * m.

    As published, the momentum is the weight of the *new* mean. The first batch with a view sets its centre. Centres are
    buffers: they are saved with the model and not trained. With several processes the means are over all of them.

    Args:
        num_views: V.
        feature_dim: D.
        momentum: weight of the new mean, in (0, 1].

    Raises:
        ConfigError: another momentum.
    """

    centres: Tensor
    seen: Tensor

    def __init__(self, num_views: int, feature_dim: int, momentum: float) -> None:
        super().__init__()
        if not 0 < momentum <= 1:
            raise ConfigError(f"the weight of the new mean, MODEL.SDMODEL.MOMENTUM, must be in (0, 1], got {momentum}")
        self.momentum = momentum
        self.register_buffer("centres", torch.zeros(num_views, feature_dim))
        self.register_buffer("seen", torch.zeros(num_views, dtype=torch.bool))
        self._read = ReadOnce(methodcaller("tolist"))

    @property
    def num_views(self) -> int:
        """Number of views V."""
        return len(self.centres)

    def unseen(self) -> list[int]:
        """Return the views without a centre."""
        return [view for view, is_seen in enumerate(self._read(self.seen)) if not is_seen]

    @torch.no_grad()
    def update(self, view_tokens: Tensor, views: Tensor) -> None:
        """Move the centres towards the tokens of a batch; centres of other views stay.

        Args:
            view_tokens: [B, D].
            views: [B].

        Raises:
            ConfigError: a view id outside 0 … V-1, if they are on the CPU. A check would wait for a GPU, and the views
                of a training set are checked before its first step (`PersonEncoder.check_views`).
        """
        if (
            views.device.type == "cpu"
            and len(views)
            and not (0 <= int(views.min()) and int(views.max()) < self.num_views)
        ):
            raise ConfigError(
                f"view ids {sorted(set(views.tolist()))} do not fit MODEL.SDMODEL.VIEW_NUM={self.num_views}"
            )
        membership = nn.functional.one_hot(views, self.num_views).to(self.centres.dtype)
        with torch.autocast(views.device.type, enabled=False):  # else sums are in half precision
            sums = comm.all_reduce_sum(membership.T @ view_tokens.detach().to(self.centres.dtype))
        counts = comm.all_reduce_sum(membership.sum(dim=0))
        shown = counts > 0
        means = sums / counts.clamp(min=1)[:, None]
        moved = self.momentum * means + (1 - self.momentum) * self.centres
        moved = torch.where(self.seen[:, None], moved, means)
        self.centres.copy_(torch.where(shown[:, None], moved, self.centres))
        self.seen.logical_or_(shown)

    def forward(self, views: Tensor) -> Tensor:
        """Return the centres [B, D] of the views [B]."""
        return self.centres[views]
