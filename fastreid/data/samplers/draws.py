"""The images that this process draws from a training order, numbered over the whole run and all processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from torch.utils.data import Sampler

from fastreid.config import ConfigError
from fastreid.data.samplers.base import EndlessSampler


class Draw(NamedTuple):
    """Image `image` of the training set, drawn as the `number`-th of the run, over all its processes."""

    image: int
    number: int


class Order(Protocol):
    """Indices of training images: an `EndlessSampler`, or a sampler written for fast-reid."""

    def __iter__(self) -> Iterator[int]: ...


class TrainingDraws(Sampler[Draw]):
    """The draws of this process from an order of training images.

    An `EndlessSampler` gives whole batches. Of each, rank r of R takes every R-th group, a group being the images of
    one person where the sampler has such. Any other sampler is user-defined for fast-reid and already gives only the
    images of this process.

    Args:
        order: the order of the images.
        batch_size: images per step, of all processes together.
        rank: number of this process.
        world_size: number of processes.

    Attributes:
        order: the order of the images.
        group_size: consecutive images that one process gets; 0 if the order is that of this process alone.

    Raises:
        ConfigError: the groups of a batch do not divide over the processes.
    """

    def __init__(self, order: Order, batch_size: int, *, rank: int = 0, world_size: int = 1) -> None:
        self._batch_size, self._rank, self._world_size = batch_size, rank, world_size
        self.set_order(order, 0)

    def set_order(self, order: Order, num_batches: int) -> None:
        """Draw from another order, which begins with batch `num_batches` of the run; iterators started later do so.

        Args:
            order: the order of the images.
            num_batches: batches of the run before it.

        Raises:
            ConfigError: the groups of a batch do not divide over the processes.
        """
        group = order.group_size if isinstance(order, EndlessSampler) else 0
        if group and self._batch_size % (group * self._world_size):
            raise ConfigError(
                f"SOLVER.IMS_PER_BATCH={self._batch_size} is {self._batch_size // group} people with "
                f"DATALOADER.NUM_INSTANCE={group} images each, which cannot be shared by {self._world_size} processes; "
                "make it a multiple"
            )
        self.order, self.group_size, self._begins = order, group, num_batches
        self.fast_forward(num_batches)

    def fast_forward(self, num_batches: int) -> None:
        """Let the next iterator start after `num_batches` batches of the run, as a resumed run needs.

        A user-defined order without `fast_forward` starts from its beginning, with the numbers of later draws.
        """
        self._first = num_batches * self._batch_size
        # fast-reid's samplers have no such method.
        skip = getattr(self.order, "fast_forward", None)
        if skip is not None:
            skip(num_batches - self._begins)

    def __iter__(self) -> Iterator[Draw]:
        first, group, rank, world_size = self._first, self.group_size, self._rank, self._world_size
        if group:
            for number, index in enumerate(self.order, start=first):
                if number // group % world_size == rank:
                    yield Draw(index, number)
        else:
            share = self._batch_size // world_size
            for count, index in enumerate(self.order):
                batch, position = divmod(count, share)
                yield Draw(index, first + batch * self._batch_size + rank * share + position)
