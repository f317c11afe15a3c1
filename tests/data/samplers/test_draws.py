"""The draws of each process: shared batches, numbers over the whole run, and new orders in the middle of it."""

import itertools

import pytest

from fastreid.config import ConfigError
from fastreid.data.samplers.base import EndlessSampler
from fastreid.data.samplers.draws import Draw, TrainingDraws
from fastreid.data.samplers.fixed import FixedOrder, SubsetOrder
from fastreid.utils.errors import ArgumentError


class Endless(EndlessSampler):
    def stream(self):
        return itertools.cycle(range(5))


def first(draws, count):
    return list(itertools.islice(draws, count))


def test_processes_share_each_batch_of_an_endless_sampler():
    whole = first(TrainingDraws(Endless(4, 2), 8), 16)
    assert [draw.number for draw in whole] == list(range(16)) and [draw.image for draw in whole[:6]] == [
        0,
        1,
        2,
        3,
        4,
        0,
    ]
    shares = [first(TrainingDraws(Endless(8, 2), 8, rank=rank, world_size=2), 8) for rank in (0, 1)]
    assert [draw.number for draw in shares[0]] == [0, 1, 4, 5, 8, 9, 12, 13]
    assert sorted(shares[0] + shares[1], key=lambda draw: draw.number) == whole


def test_groups_that_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match="is 4 people with DATALOADER.NUM_INSTANCE=2 .* shared by 3 processes"):
        TrainingDraws(Endless(8, 2), 8, world_size=3)


def test_a_user_defined_sampler_that_cannot_skip_starts_over_with_later_numbers():
    draws = TrainingDraws([3, 1], 2)
    draws.fast_forward(5)
    assert list(draws) == [Draw(3, 10), Draw(1, 11)]


def test_a_user_defined_sampler_gives_the_images_of_its_process():
    draws = TrainingDraws([3, 1, 4, 1], 4, rank=1, world_size=2)
    draws.fast_forward(1)
    assert list(draws) == [Draw(3, 6), Draw(1, 7), Draw(4, 10), Draw(1, 11)]


def test_a_new_order_begins_where_it_is_set_and_can_be_fast_forwarded():
    draws = TrainingDraws(Endless(2), 2)
    draws.set_order(FixedOrder([7, 8, 9, 5, 6], batch_size=2), 3)
    assert first(draws, 6) == [Draw(7, 6), Draw(8, 7), Draw(9, 8), Draw(5, 9), Draw(6, 10), Draw(7, 11)]
    draws.fast_forward(4)
    assert first(draws, 2) == [Draw(9, 8), Draw(5, 9)]


def test_an_iterator_goes_on_with_the_order_that_it_began_with():
    draws = TrainingDraws(Endless(4), 4)
    running = iter(draws)
    assert next(running) == Draw(0, 0)
    draws.set_order(FixedOrder([7], batch_size=4, group_size=4), 1)
    assert next(running) == Draw(1, 1)


def test_an_order_without_images_is_refused():
    with pytest.raises(ArgumentError, match="at least one index"):
        FixedOrder([], batch_size=2)


def test_an_order_of_a_part_gives_the_indices_of_that_part():
    part = SubsetOrder(Endless(4, 2), [10, 11, 12, 13, 14])
    assert first(part, 6) == [10, 11, 12, 13, 14, 10] and part.group_size == 2
    part.fast_forward(1)
    assert first(part, 2) == [14, 10]
