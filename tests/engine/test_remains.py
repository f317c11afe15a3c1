"""Forks of the tests end where they should, whatever the process has started before."""

import multiprocessing
import time

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.engine.remains import in_a_fork


def fail():
    raise ValueError("as planned")


@pytest.mark.parametrize(("do", "status"), [(int, 0), (fail, 1)])
def test_a_fork_ends_beside_processes_of_its_parent(do, status):
    other = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
    other.start()
    try:
        assert in_a_fork(do) == status
        assert other.is_alive()
    finally:
        other.kill()
        other.join()


def test_a_fork_goes_backward_after_an_export_or_fake_tensors():
    """They make a GPU known; remains.py has the reason why this mattered."""

    def backward():
        torch.zeros(1, requires_grad=True).sum().backward()

    with FakeTensorMode():
        torch.zeros(1)
    backward()
    assert in_a_fork(backward) == 0
