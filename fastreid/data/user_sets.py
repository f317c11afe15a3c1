"""Loaders over a torch data set of a user, whose items are dicts with "images", as fast-reid's loaders take it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from torch.utils.data import Dataset, Sampler

from fastreid.config import CfgNode, ConfigError, get_cfg, with_values
from fastreid.data.common import numbers_of
from fastreid.data.loader import PersonLoader
from fastreid.data.samplers import InferenceSampler, TrainingSampler
from fastreid.data.samplers.draws import Order, TrainingDraws
from fastreid.utils import comm
from fastreid.utils.errors import ArgumentError


class UserTrainLoader(PersonLoader):
    """An endless loader over a data set of a user.

    Args:
        dataset: the data set.
        order: the order of its items; one that is made for this process alone, or an `EndlessSampler`.
        batch_size: images per step, of all processes together.
        iters_per_epoch: iterations of an epoch; 0 for the whole batches that the data set has.
        options: further arguments of `PersonLoader`.

    Attributes:
        iters_per_epoch: iterations of an epoch.

    Raises:
        ConfigError: the batch does not divide over the processes.
    """

    def __init__(
        self, dataset: Any, order: Order, *, batch_size: int, iters_per_epoch: int = 0, **options: Any
    ) -> None:
        world_size = comm.get_world_size()
        if batch_size < 1 or batch_size % world_size:
            raise ConfigError(
                f"a batch of {batch_size} images (total_batch_size) must divide over {world_size} processes"
            )
        share = batch_size // world_size
        draws = DrawnImages(with_batch_size(order, share), batch_size)
        super().__init__(dataset, sampler=draws, batch_size=share, drop_last=True, **options)
        self.iters_per_epoch = iters_per_epoch or max(1, len(dataset) // batch_size)


class DrawnImages(Sampler[int]):
    """The indices that this process draws from an order, which a resumed run continues.

    Args:
        order: the order.
        batch_size: images per step, of all processes together.
    """

    def __init__(self, order: Order, batch_size: int) -> None:
        self._draws = TrainingDraws(order, batch_size, rank=comm.get_rank(), world_size=comm.get_world_size())

    def __iter__(self) -> Iterator[int]:
        return (draw.image for draw in self._draws)

    def fast_forward(self, num_batches: int) -> None:
        """Let the next iterator start after `num_batches` batches of the run."""
        self._draws.fast_forward(num_batches)


def with_batch_size(order: Order, share: int) -> Order:
    """Return an order; a `TrainingSampler(size)`, which has no batches, gets those of this process."""
    if isinstance(order, TrainingSampler) and not order.batch_size:
        order.batch_size = share
    return order


def user_test_loader(dataset: Any, *, batch_size: int, **options: Any) -> PersonLoader:
    """Return a loader over this process's share of a data set, in order.

    Args:
        dataset: the data set.
        batch_size: images of a batch.
        options: further arguments of `PersonLoader`.
    """
    return PersonLoader(dataset, sampler=InferenceSampler(len(dataset)), batch_size=batch_size, **options)


def labels_of(dataset: Any, key: str) -> tuple[list[int], list[int], list[int]]:
    """Return class, camera and view of each item of a data set, for samplers of the library.

    Args:
        dataset: the data set; `img_items` are its tuples (path, person, camera, …), as in fast-reid.
        key: what needs the labels, for the error message.

    Raises:
        ArgumentError: it has no `img_items`.
    """
    items = getattr(dataset, "img_items", None)
    if items is None:
        raise ArgumentError(
            f"{key} draws by person, and {type(dataset).__name__} has no img_items, tuples (path, person, camera) of "
            "its images: add them, give sampler=…, or set DATALOADER.SAMPLER_TRAIN TrainingSampler"
        )
    people, cameras = (_numbered([item[column] for item in items]) for column in (1, 2))
    return people, cameras, [int(getattr(item, "view", 0)) for item in items]


def _numbered(ids: Sequence[Hashable]) -> list[int]:
    """Return a number from 0 for each id; equal ids have equal numbers, which follow their sorted order."""
    numbers = numbers_of(ids)
    return [numbers[who] for who in ids]


def as_data_set(given: Any, function: str) -> Dataset[Any] | None:
    """Return the first argument of a loader's function if it is a data set, None if it is a config or missing.

    Args:
        given: the argument.
        function: name of the function, for the error message.

    Raises:
        ArgumentError: something else.
    """
    if given is None or isinstance(given, CfgNode):
        return None
    if not (hasattr(given, "__getitem__") and hasattr(given, "__len__")):
        raise ArgumentError(
            f'{function} takes a config, or a data set of dicts with "images", got {type(given).__name__}'
        )
    return given


def refuse_views(name: str, **views: Any) -> None:
    """Refuse transforms beside a data set of a user, which transforms its own images.

    Args:
        name: the argument of the data set.
        views: the arguments of transforms.

    Raises:
        ArgumentError: there are some.
    """
    if given := [argument for argument, value in views.items() if value]:
        raise ArgumentError(f"{' and '.join(given)} beside {name}: the data set makes its images; give them to it")


def _config_without_data(num_workers: int | None) -> CfgNode:
    """Return the config of a loader that is made without one: batches stay on the CPU, until the model moves them."""
    return with_values(get_cfg(), {"MODEL.DEVICE": "cpu", "DATALOADER.NUM_WORKERS": num_workers or 0})


def with_sizes(cfg: Any, batch_key: str, batch_size: int | None, num_workers: int | None, data_set: Any) -> CfgNode:
    """Return a config with the batch size and the number of workers that are given beside it, or instead of it.

    Args:
        cfg: the first argument of a loader's function.
        batch_key: key of the batch size.
        batch_size: the batch size; None for that of the config.
        num_workers: the number of workers; None for that of the config, or 0 without one.
        data_set: the data set of a user, or None.

    Raises:
        ArgumentError: there is no config, and no data set or no batch size.
    """
    if not isinstance(cfg, CfgNode):
        if data_set is None:
            raise ArgumentError('a loader needs a config, or a data set of dicts with "images"')
        if batch_size is None:
            raise ArgumentError("a loader without a config needs a batch size: total_batch_size or test_batch_size")
        cfg = _config_without_data(num_workers)
    sizes = {batch_key: batch_size, "DATALOADER.NUM_WORKERS": num_workers}
    return with_values(cfg, {key: value for key, value in sizes.items() if value is not None})
