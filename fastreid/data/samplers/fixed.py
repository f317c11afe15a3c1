"""An order of training images that is given as indices."""

from collections.abc import Iterator, Sequence
from itertools import cycle

from fastreid.data.samplers.base import EndlessSampler
from fastreid.utils.errors import ArgumentError


class FixedOrder(EndlessSampler):
    """The given indices, repeated endlessly.

    Args:
        indices: indices of training images, at least one.
        batch_size: images per step, of all processes together.
        group_size: consecutive images that one process should get.
    """

    def __init__(self, indices: Sequence[int], *, batch_size: int, group_size: int = 1) -> None:
        super().__init__(batch_size, group_size)
        if not len(indices):
            raise ArgumentError("an order of training images needs at least one index")
        self._indices = [int(index) for index in indices]

    def stream(self) -> Iterator[int]:
        """The indices from the beginning."""
        return cycle(self._indices)


class SubsetOrder(EndlessSampler):
    """An order of a part of the training images.

    Args:
        order: an order of positions in `indices`.
        indices: indices of the images of the part.
    """

    def __init__(self, order: EndlessSampler, indices: Sequence[int]) -> None:
        super().__init__(order.batch_size, order.group_size)
        self._order, self._indices = order, indices

    def stream(self) -> Iterator[int]:
        """The indices of the images from the beginning."""
        return map(self._indices.__getitem__, self._order.stream())
