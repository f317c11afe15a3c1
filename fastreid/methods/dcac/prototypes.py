"""The epoch task that computes the prototypes of all training people anew (DCAC, section 4.1)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreid.modeling.epoch_task import EpochPlan, EpochTask, TrainingSet
from fastreid.modeling.prototypes import PrototypeMemory


class NeckExtractor(nn.Module):
    """The model as an extractor of the features that prototypes are made of, whatever `TEST.NECK_FEAT` evaluates.

    Args:
        model: called with `after_neck=True`, it returns features [B, D] of a batch.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Any) -> Tensor:
        """Return features [B, D]."""
        return self.model(batch, after_neck=True)


class RebuildPrototypes(EpochTask):
    """Computes the prototypes anew from all training images, without augmentation.

    Args:
        memory: the prototypes.
        extractor: in eval mode it returns features [B, D] of a batch.
        period: epochs between two computations.
    """

    in_all_processes = True

    def __init__(self, memory: PrototypeMemory, extractor: nn.Module, period: int) -> None:
        self._memory, self._extractor, self._period = memory, extractor, period

    def is_due(self, epoch: int) -> bool:
        """Return True for every `period`-th epoch, the first one included."""
        return epoch % self._period == 0

    def run(self, training_set: TrainingSet) -> EpochPlan | None:
        """Extract the features and set the prototypes; labels and order stay."""
        indices, features = training_set.features(self._extractor)
        labels = torch.tensor(training_set.labels)[indices]
        self._memory.rebuild(F.normalize(features, dim=1), labels)
        return None
