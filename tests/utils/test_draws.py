"""Rows get the numbers of their places in the whole batch."""

import torch

from fastreid.utils import comm
from fastreid.utils.draws import BatchDraws

CPU = torch.device("cpu")


def test_two_processes_draw_together_what_one_draws(monkeypatch):
    torch.manual_seed(4)
    whole = BatchDraws(torch.arange(6), 6, CPU)
    expected = [whole.uniform(), whole.normal(3, 2)]
    monkeypatch.setattr(comm, "shared_random_seed", lambda: 7)  # what a broadcast would bring
    first, second = (BatchDraws(torch.tensor(places), 6, CPU) for places in ([0, 1, 4], [2, 3, 5]))
    alone = BatchDraws(torch.arange(6), 6, CPU)
    for shape in ((), (3, 2)):
        numbers = alone.normal(*shape)
        assert torch.equal(first.normal(*shape), numbers[[0, 1, 4]])
        assert torch.equal(second.normal(*shape), numbers[[2, 3, 5]])
    assert expected[0].min() >= 0 and expected[0].max() < 1 and expected[1].shape == (6, 3, 2)


def test_numbers_follow_from_torch_s_seed_and_differ_from_step_to_step():
    def draw():
        return BatchDraws.of({"images": torch.zeros(4, 1)}, CPU).uniform()

    torch.manual_seed(1)
    first, second = draw(), draw()
    torch.manual_seed(1)
    assert torch.equal(draw(), first) and not torch.equal(first, second)


def test_without_positions_ranks_follow_each_other(monkeypatch):
    monkeypatch.setattr(comm, "shared_random_seed", lambda: 7)
    whole = BatchDraws(torch.arange(4), 4, CPU).uniform()
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(comm, "get_rank", lambda: 1)
    assert torch.equal(BatchDraws.of({"images": torch.zeros(2, 1)}, CPU).uniform(), whole[2:])
    of_batch = {"images": torch.zeros(2, 1), "position": torch.tensor([3, 0]), "batch_size": torch.tensor([4, 4])}
    assert torch.equal(BatchDraws.of(of_batch, CPU).uniform(), whole[[3, 0]])


def test_a_common_number_is_the_same_in_all_processes(monkeypatch):
    monkeypatch.setattr(comm, "shared_random_seed", lambda: 7)
    first, second = (BatchDraws(torch.tensor(places), 4, CPU) for places in ([0, 1], [2, 3]))
    number = first.common_uniform()
    assert number.shape == (1,) and 0 <= number < 1 and torch.equal(second.common_uniform(), number)
    assert not torch.equal(first.common_uniform(), number)
