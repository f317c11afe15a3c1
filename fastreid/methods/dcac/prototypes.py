"""The epoch task that computes the prototypes of all training people anew (DCAC, section 4.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fastreid.modeling.epoch_task import EpochPlan, EpochTask, TrainingSet
from fastreid.modeling.prototypes import PrototypeMemory


class RebuildPrototypes(EpochTask):
    """Computes the prototypes anew from all training images, without augmentation.

    Args:
        memory: the prototypes.
        model: the model; in eval mode it returns features [B, D].
        period: epochs between two computations.
    """

    in_all_processes = True

    def __init__(self, memory: PrototypeMemory, model: torch.nn.Module, period: int) -> None:
        self._memory, self._model, self._period = memory, model, period

    def is_due(self, epoch: int) -> bool:
        """Return True for every `period`-th epoch, the first one included."""
        return epoch % self._period == 0

    def run(self, training_set: TrainingSet) -> EpochPlan | None:
        """Extract the features and set the prototypes; labels and order stay."""
        indices, features = training_set.features(self._model)
        labels = torch.tensor(training_set.labels)[indices]
        self._memory.rebuild(F.normalize(features, dim=1), labels)
        return None
