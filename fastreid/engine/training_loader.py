"""The interface between the trainer and a training loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastreid.config import ConfigError
from fastreid.data.datasets import ImageDataset
from fastreid.modeling.epoch_task import EpochPlan
from fastreid.modeling.model import Transform
from fastreid.retrieval.extraction import BatchLoader, FeatureStore, my_share
from fastreid.structures import PersonImage

MakeLoader = Callable[[Sequence[PersonImage], "Mapping[str, Transform] | None"], BatchLoader]
"""(images, further views or None) -> batches of them in order, with the test transforms."""


class TrainingLoader:
    """A training loader with all members that the trainer reads.

    Loaders of fast-reid users are plain torch loaders, which lack some of them: those have a default here.

    Args:
        loader: an endless loader with `dataset.num_classes` and `iters_per_epoch`.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._loader)

    @property
    def num_classes(self) -> int:
        """Training identities."""
        return self._loader.dataset.num_classes

    @property
    def iters_per_epoch(self) -> int:
        """Iterations of one epoch."""
        return self._loader.iters_per_epoch

    @property
    def sources(self) -> Sequence[ImageDataset]:
        """The data sets that the images come from. Default: none."""
        return getattr(self._loader, "sources", [])

    @property
    def images(self) -> Sequence[PersonImage] | None:
        """The training images in the order of the data set. Default: None, not known."""
        return getattr(self._loader.dataset, "images", None)

    @property
    def labels(self) -> Sequence[int] | None:
        """The class of each image. Default: None, not known."""
        return getattr(self._loader.dataset, "labels", None)

    def fast_forward(self, iteration: int) -> None:
        """Start the next iterator at an iteration of the run, if the sampler can. Default: from the start again."""
        fast_forward = getattr(self._loader.sampler, "fast_forward", None)
        if fast_forward is not None:
            fast_forward(iteration)

    def follow(self, plan: EpochPlan, *, since: int) -> None:
        """Give the next iterator the labels and the order of a plan; it begins at iteration `since` of the run.

        Args:
            plan: the labels and the order; None leaves them as they are.
            since: the iteration of the run from which the plan is valid.

        Raises:
            ConfigError: the loader cannot change them.
            ArgumentError: the plan does not fit the training set.
        """
        if plan.is_empty:
            return
        set_plan = getattr(self._loader, "set_plan", None)
        if set_plan is None:
            raise ConfigError(
                f"an epoch task returned new labels or a new order, but {type(self._loader).__name__} has no "
                "set_plan(labels=…, order=…, num_batches=…), as the loader of build_reid_train_loader has"
            )
        set_plan(labels=plan.labels, order=plan.order, num_batches=since)


def skipped_images(loader: Any) -> Mapping[str, str]:
    """{path: reason} of the images that a loader has skipped so far; {} if it does not record them."""
    return getattr(loader, "skipped", {})


class LoaderTrainingSet:
    """The `TrainingSet` of a training loader.

    Args:
        loader: the training loader; its data set must have `images` and `labels`.
        make_loader: (images, further views or None) -> batches of them in order, with the test transforms.

    Raises:
        ConfigError: images or labels of the data set are not known.
    """

    def __init__(self, loader: TrainingLoader, make_loader: MakeLoader) -> None:
        self.loader, self._make_loader = loader, make_loader
        if loader.images is None or loader.labels is None:
            raise ConfigError(
                "the model has epoch tasks, which read the training images, but the data set of the training loader "
                "has no `images` and `labels`"
            )
        self._people = tuple(loader.labels)

    @property
    def images(self) -> Sequence[PersonImage]:
        """All training images, in the order of the data set."""
        return self.loader.images or []

    @property
    def labels(self) -> Sequence[int]:
        """The class of each image."""
        return self.loader.labels or []

    @property
    def people(self) -> Sequence[int]:
        """The person of each image: its label before the first plan."""
        return self._people

    def batches(
        self, images: Sequence[PersonImage], transforms: Mapping[str, Transform] | None = None
    ) -> Iterable[Mapping[str, Any]]:
        """Batches of some images in the given order, with the test transforms and further views."""
        return self._make_loader(images, transforms)

    def features(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """Positions [M] and features [M, D] of the training images that can be read, shared among the processes."""
        rows = FeatureStore().extract(model, self._make_loader(my_share(self.images), None))
        found = [index for index, image in enumerate(self.images) if image.path in rows]
        return torch.tensor(found), torch.stack([rows[self.images[index].path] for index in found])
