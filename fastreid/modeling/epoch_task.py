"""Work before an epoch over the training images in a fixed order: calibration, prototypes, pseudo-labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from fastreid.structures import PersonImage


class TrainingSet(Protocol):
    """The training images of a run, as an `EpochTask` reads them."""

    @property
    def images(self) -> Sequence[PersonImage]:
        """All training images, in the order of the data set."""

    @property
    def labels(self) -> Sequence[int]:
        """The class of each image; the labels of the last `EpochPlan` that has labels."""

    @property
    def people(self) -> Sequence[int]:
        """The person of each image, numbered over all data sets; -1 if it is not known. Plans do not change it."""

    def batches(
        self, images: Sequence[PersonImage], transforms: Mapping[str, Callable[..., Any]] | None = None
    ) -> Iterable[Mapping[str, Any]]:
        """Batches of some images in the given order, with the test transforms; `targets` are their person ids.

        Args:
            images: the images.
            transforms: key in the batch -> transform of a further view of each image.
        """

    def features(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """Extract the features of all training images, shared among the processes.

        All processes must call it together, so only tasks that run `in_all_processes` may.

        Args:
            model: in eval mode it returns features [B, D].

        Returns:
            The positions [M] of the images that can be read, in order, and their features, float32 [M, D] on the CPU.
        """


@dataclass(frozen=True)
class EpochPlan:
    """New labels and a new order of the training set, valid from the epoch of the task until the next plan.

    Args:
        labels: one class per training image, in the order of the data set; images with a negative label are not drawn.
            None keeps the labels.
        order: indices of training images, as all processes together draw them, repeated endlessly. If it is None,
            DATALOADER.SAMPLER_TRAIN draws by the new labels; without new labels the order stays.
    """

    labels: Sequence[int] | None = None
    order: Sequence[int] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether labels and order stay as they are."""
        return self.labels is None and self.order is None


ShapeOf = Callable[[Callable[[Mapping[str, Any]], Tensor], Iterable[Mapping[str, Any]]], Sequence[int]]
"""A function that tells the shape of what another one computes from the first of some batches."""


class EpochTask(ABC):
    """Work that is done before some epochs, over the training images in a fixed order.

    The trainer runs the tasks of a model (`ReidModel.epoch_tasks`) in their order. It saves the states and the plan in
    each checkpoint: a run that is resumed in the middle of an epoch does not repeat the work.
    """

    in_all_processes = False
    """Whether all processes call `run`, which may then share the work; all must come to the same result."""

    reads: Sequence[nn.Module] | None = None
    """The parts of the model that it calls, None for all: no other weights are gathered for it if they are divided
    among processes (SOLVER.FSDP)."""

    @property
    def name(self) -> str:
        """The key of the state in checkpoints; no two tasks of a model may share it. Default: the class name."""
        return type(self).__name__

    @abstractmethod
    def is_due(self, epoch: int) -> bool:
        """Return whether the task runs before `epoch`, which counts from 0."""

    @abstractmethod
    def run(self, training_set: TrainingSet) -> EpochPlan | None:
        """Do the work and return a plan, or None to keep labels and order.

        With several processes only the main one calls it, unless the task runs `in_all_processes`; it must not
        communicate with the others then. The model is in eval mode, without gradients, under the autocast of training.
        What the task writes must be in the buffers of the model or in `state_dict`: both are copied from the main
        process to the others.
        """

    def rehearse(self, training_set: TrainingSet, shape_of: ShapeOf) -> None:  # noqa: B027 - optional
        """Give the model made-up results of the right sizes, for a dry run that counts the memory of a step.

        Nothing is written, and the model is not used afterwards. Default: nothing, for tasks without which a step can
        be computed.

        Args:
            training_set: the training images.
            shape_of: returns the shape of what a function computes from the first of some batches.
        """

    def after_training(self, training_set: TrainingSet, folder: Path) -> None:  # noqa: B027 - optional
        """Write what is known about the training images after the last epoch. Default: nothing.

        It is called as `run` is, with the final weights (the averaged ones, if there are any), in the same processes.
        A finished run that is started again calls it again.

        Args:
            training_set: the training images.
            folder: OUTPUT_DIR.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return the state for checkpoints: tensors and plain types. Default: none."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - optional
        """Restore what `state_dict` returned. Default: nothing to restore."""


def reading(task: EpochTask, *parts: nn.Module) -> EpochTask:
    """Return the task, which calls these parts of the model only."""
    task.reads = parts
    return task
