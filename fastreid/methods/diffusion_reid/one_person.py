"""The epoch task that leaves the images of all people but one out of a training."""

from __future__ import annotations

from fastreid.config import ConfigError
from fastreid.modeling.epoch_task import EpochPlan, EpochTask, TrainingSet


class OnePerson(EpochTask):
    """Gives the images of other people the label -1, with which they are not drawn.

    Args:
        person: number of the person.
    """

    def __init__(self, person: int) -> None:
        self._person = person

    def is_due(self, epoch: int) -> bool:
        """Return True for the first epoch."""
        return epoch == 0

    def run(self, training_set: TrainingSet) -> EpochPlan | None:
        """Return the labels.

        Raises:
            ConfigError: there is no image of the person.
        """
        labels = [person if person == self._person else -1 for person in training_set.people]
        if self._person not in labels:
            raise ConfigError(f"DIFFPERSON.PERSON {self._person}: the training images have no such person")
        return EpochPlan(labels)
