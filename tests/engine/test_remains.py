"""Forks of the tests end where they should, whatever the process has started before."""

import multiprocessing
import time

import pytest

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
