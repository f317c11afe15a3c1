"""Conditions: control maps that samples share are looked up for the samples that are predicted."""

import torch

from fastreid.structures import Condition, ControlMaps


def maps_of(num_maps):
    sizes = ((2, 4, 3), (3, 2, 2))
    return ControlMaps(
        tuple(torch.randn(num_maps, *size) for size in sizes),
        tuple(torch.randn(num_maps, *size) for size in sizes),
        torch.randn(num_maps, 5, 1, 1),
    )


def as_list(condition):
    control = condition.control
    return [condition.tokens, *control.down, *control.up, control.mid]


def test_shared_maps_give_the_rows_of_repeated_ones():
    index, shared, others, tokens = torch.tensor([0, 1, 1, 0, 1]), maps_of(2), maps_of(2), torch.randn(5, 3, 4)

    def repeated(maps):
        return maps.map(lambda part: part[index], lambda part: part[index])

    def indexed(maps):
        return ControlMaps(maps.down, maps.up, maps.mid, index)

    joined = Condition.cat([Condition(tokens, indexed(shared)), Condition(-tokens, indexed(others))])
    plain = Condition.cat([Condition(tokens, repeated(shared)), Condition(-tokens, repeated(others))])
    assert len(joined.control.down[0]) == 4 and len(plain.control.down[0]) == 10
    for start, stop in ((0, 10), (3, 7), (9, 10), (4, 4)):
        found = joined.rows(start, stop)
        assert found.control.index is None
        for one, other in zip(as_list(found), as_list(plain.rows(start, stop)), strict=True):
            assert torch.equal(one, other)
