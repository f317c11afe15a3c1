"""Counts, before training, the share of training images that have each attribute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fastreid.modeling.epoch_task import EpochPlan, EpochTask, TrainingSet


class AttributeShares(EpochTask):
    """Counts the shares before the first epoch; checkpoints hold them.

    Args:
        take: gets the shares, float32 [A], after counting and when a run is resumed.
    """

    def __init__(self, take: Callable[[Tensor], None]) -> None:
        self._take = take
        self._shares: Tensor | None = None

    def is_due(self, epoch: int) -> bool:
        """Return True for the first epoch."""
        return epoch == 0

    def run(self, training_set: TrainingSet) -> EpochPlan | None:
        """Count the shares; labels and order stay."""
        rows = torch.tensor([image.attributes for image in training_set.images], dtype=torch.float64)
        self._keep(rows.mean(dim=0).float())
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return the shares, if they are counted."""
        return {} if self._shares is None else {"shares": self._shares}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the shares."""
        if "shares" in state:
            self._keep(state["shares"])

    def _keep(self, shares: Tensor) -> None:
        self._shares = shares
        self._take(shares)
