"""The calibration of stage 2 as an epoch task: before epochs, on training images without augmentation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from fastreid.modeling.epoch_task import EpochPlan, EpochTask, TrainingSet

MAX_IMAGES = 4096


class Calibration(EpochTask):
    """Calls `fit` with batches of about `MAX_IMAGES` training images: all images of every n-th person.

    Args:
        fit: reads the batches once; `targets` are training labels.
        every_epoch: whether it runs before every epoch, as the encoder trains, or before the first one only.
    """

    def __init__(self, fit: Callable[[Iterable[Mapping[str, Any]]], None], *, every_epoch: bool = False) -> None:
        self._fit, self._every_epoch = fit, every_epoch

    def is_due(self, epoch: int) -> bool:
        """Return True for the first epoch of a run, and for others with `every_epoch`."""
        return epoch == 0 or self._every_epoch

    def run(self, training_set: TrainingSet) -> EpochPlan | None:
        """Select the images and call `fit`; labels and order stay."""
        stride = -(-len(training_set.images) // MAX_IMAGES)
        # Labels, not ids: people of different data sets may share an id.
        images = [
            replace(image, person=label)
            for image, label in zip(training_set.images, training_set.labels, strict=True)
            if label % stride == 0
        ]
        self._fit(training_set.batches(images))
        return None
