"""Use one thread in each test process, because tensors are tiny and threads would mostly wait for each other."""

import logging
import multiprocessing.spawn
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Threads that wait must not spin: on a busy machine a test took minutes.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch

torch.set_num_threads(1)

# Files whose few tests take minutes. They come first, so that no process works at one alone at the end.
LONG = ("test_faults.py", "test_evaluating.py", "test_quickstart_diffperson.py", "test_kills.py", "test_house.py")


def pytest_collection_modifyitems(items):
    """Put the tests of long files first; pytest-xdist keeps this order with --no-loadscope-reorder."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture
def put_handlers_back():
    """The logger of the library without handlers; afterwards as it was before."""
    logger = logging.getLogger("fastreid")
    handlers, level = list(logger.handlers), logger.level
    logger.handlers.clear()
    yield
    for handler in logger.handlers:
        handler.close()
    logger.handlers[:] = handlers
    logger.setLevel(level)


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


@pytest.fixture(scope="module")
def warm_ranks():
    """Processes that are spawned have imported torch already."""
    from tests.warm_python import warm_python

    before = multiprocessing.spawn.get_executable()
    multiprocessing.set_executable(warm_python())
    yield
    multiprocessing.set_executable(before)
