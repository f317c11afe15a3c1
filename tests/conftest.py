"""Use one thread in each test process, because tensors are tiny and threads would mostly wait for each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Threads that wait must not spin: on a busy machine a test took minutes.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch

torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Escape what is not UTF-8 in captured text, such as file names: processes of pytest-xdist cannot send it."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session")
def people(tmp_path_factory):
    """A folder with a small table of images, a config that trains on it, and the run in out/."""
    from tests.tiny import make_people

    folder = tmp_path_factory.mktemp("people")
    make_people(folder)
    return folder
