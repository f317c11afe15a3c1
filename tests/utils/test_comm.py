"""Collectives in one process; two processes are in tests/engine/test_launch.py."""

import torch

from fastreid.utils import comm


def test_alone():
    comm.synchronize()
    assert (comm.get_world_size(), comm.get_rank(), comm.get_local_rank()) == (1, 0, 0)
    assert comm.is_main_process() and not comm.is_distributed()
    assert comm.all_gather("x") == ["x"] and comm.gather("x") == ["x"]
    assert comm.broadcast("x") == "x"


def test_sum_leaves_its_argument_alone():
    tensor = torch.ones(3, requires_grad=True)
    total = comm.all_reduce_sum(tensor)
    total += 1
    assert not total.requires_grad
    assert tensor.tolist() == [1, 1, 1]


def test_reduce_dict_detaches():
    loss = torch.tensor(2.0, requires_grad=True)
    reduced = comm.reduce_dict({"loss": loss})
    assert reduced["loss"].item() == 2.0 and not reduced["loss"].requires_grad
    assert comm.reduce_dict({}) == {}


def test_shared_seed_comes_from_torch_s_generator():
    torch.manual_seed(3)
    first = comm.shared_random_seed()
    second = comm.shared_random_seed()
    torch.manual_seed(3)
    assert comm.shared_random_seed() == first != second
    assert 0 <= first < 2**31
