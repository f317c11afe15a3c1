"""The loader of a training set, whose labels and order an epoch task may replace."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from fastreid.data.dataset import TrainingDataset
from fastreid.data.datasets import ImageDataset
from fastreid.data.loader import PersonLoader
from fastreid.data.samplers.base import EndlessSampler
from fastreid.data.samplers.draws import Order, TrainingDraws
from fastreid.data.samplers.fixed import FixedOrder, SubsetOrder
from fastreid.utils.errors import ArgumentError

MakeOrder = Callable[[Sequence[int], int], Order]
"""(indices of images, seed) -> an order of positions in those indices, by the current labels."""


class TrainLoader(PersonLoader):
    """An endless loader over a training set, whose labels and order can be replaced between epochs.

    Args:
        dataset: the training set.
        make_order: makes the order in which images are drawn.
        first_order: the order before the first plan; None for one by the labels of the data sets.
        seed: seed of the run.
        batch_size: images per step, of all processes together.
        rank: number of this process.
        world_size: number of processes.
        sources: the data sets that are trained on.
        iters_per_epoch: iterations of an epoch.
        options: further arguments of `PersonLoader`.

    Attributes:
        sources: the data sets that are trained on.
        iters_per_epoch: iterations of an epoch.
    """

    # Losses need them on the device. A copy in the middle of a forward pass would wait for all that was started.
    moved = ("targets", "camids", "viewids", "attributes")
    dataset: TrainingDataset
    sampler: TrainingDraws

    def __init__(
        self,
        dataset: TrainingDataset,
        make_order: MakeOrder,
        *,
        first_order: Order | None = None,
        seed: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        sources: Sequence[ImageDataset] = (),
        iters_per_epoch: int,
        **options: Any,
    ) -> None:
        order = first_order or make_order(range(len(dataset)), seed)
        draws = TrainingDraws(order, batch_size, rank=rank, world_size=world_size)
        super().__init__(dataset, sampler=draws, batch_size=batch_size // world_size, drop_last=True, **options)
        self._make_order, self._seed, self._images_per_step = make_order, seed, batch_size
        self.sources, self.iters_per_epoch = sources, iters_per_epoch

    def set_plan(
        self, *, labels: Sequence[int] | None = None, order: Sequence[int] | None = None, num_batches: int
    ) -> None:
        """Use new labels, a new order, or both, from batch `num_batches` of the run on.

        Iterators that are started afterwards do so; they begin with that batch, or with a later one after
        `fast_forward`. A resumed run therefore repeats the call of the interrupted run, then calls `fast_forward`.
        All processes call this with the same arguments.

        Args:
            labels: class label per image of the training set; images with a negative label are not drawn. None keeps
                the labels.
            order: indices of images, repeated endlessly; processes share each batch of it. If it is None and there are
                new labels, DATALOADER.SAMPLER_TRAIN draws by these labels.
            num_batches: batches of the run before the change.

        Raises:
            ArgumentError: the number of labels is not that of the images, or an index is not one of an image.
            ConfigError: the sampler cannot fill a batch with the new labels.
        """
        if labels is not None:
            self.dataset.set_labels(labels)
        if order is not None:
            self.sampler.set_order(self._fixed(order), num_batches)
        elif labels is not None:
            self.sampler.set_order(self._by_labels(num_batches), num_batches)

    def fast_forward(self, num_batches: int) -> None:
        """Let the next iterator start after `num_batches` batches of the run, as a resumed run needs."""
        self.sampler.fast_forward(num_batches)

    def _fixed(self, indices: Sequence[int]) -> FixedOrder:
        size = len(self.dataset)
        if strange := next((index for index in indices if not 0 <= index < size), None):
            raise ArgumentError(f"an order of {size} training images cannot have the index {strange}")
        return FixedOrder(indices, batch_size=self._images_per_step, group_size=self.sampler.group_size or 1)

    def _by_labels(self, num_batches: int) -> Order:
        indices = [index for index, label in enumerate(self.dataset.labels) if label >= 0]
        order = self._make_order(indices, _seed_of(self._seed, num_batches))
        if len(indices) == len(self.dataset):
            return order
        if not isinstance(order, EndlessSampler):
            raise ArgumentError(
                f"{type(order).__name__} cannot leave images out: with negative labels, DATALOADER.SAMPLER_TRAIN must "
                "be derived from fastreid.data.samplers.base.EndlessSampler"
            )
        return SubsetOrder(order, indices)


def _seed_of(run: int, num_batches: int) -> int:
    """The seed of an order that begins after `num_batches` batches; the run's own at its beginning."""
    if not num_batches:
        return run
    return int.from_bytes(hashlib.blake2b(b"%d %d" % (run, num_batches), digest_size=8).digest(), "little") >> 1
