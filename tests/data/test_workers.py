"""Data workers that die, hang or run out of shared memory: an error in time, with what to do."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from fastreid.data import workers
from fastreid.data.workers import (
    WorkerError,
    explain,
    explained,
    leave_signals_to_parent,
    number_of_workers,
    signals_blocked,
)
from fastreid.utils import comm


class Fateful(Dataset):
    def __init__(self, fate):
        self.fate = fate

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 5:
            self.fate()
        return index


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def bus_error():
    os.kill(os.getpid(), signal.SIGBUS)


def hangs():
    time.sleep(60)


def leaves():
    os._exit(3)


def finds_it_full():
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_12_3>: No space left on device (28)")


def finds_it_full_by_name():
    raise RuntimeError("unable to write to file </torch_12_3>: No space left on device (28)")


def too_many_files():
    raise OSError(24, "Too many open files")


# In a process of its own: what torch hears of a dead worker it raises wherever the main process is just then.
_SCRIPT = """
import os, sys
from torch.utils.data import DataLoader
from fastreid.data.workers import explain, explained
from tests.data import test_workers

loader = DataLoader(test_workers.Fateful(getattr(test_workers, sys.argv[1])), batch_size=2, num_workers=1, timeout=2)
try:
    list(explained(loader))
except RuntimeError as error:
    print(explain(error) or error, flush=True)
    sys.exit(0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(
    ("fate", "said"),
    [
        ("killed", "a data worker died: if it was killed, the memory was full: lower DATALOADER.NUM_WORKERS"),
        ("bus_error", r"shared memory .*(is full: make it larger|was \(docker run --shm-size 8g\))"),
        ("hangs", "no data worker delivered a batch in DATALOADER.TIMEOUT seconds: see whether the disk"),
        ("leaves", "a data worker died: .*if it crashed, DATALOADER.NUM_WORKERS 0 shows where"),
    ],
)
def test_an_error_in_time_that_says_what_to_do(fate, said):
    root = Path(__file__).parents[2]
    options = {"cwd": root, "env": os.environ | {"PYTHONPATH": str(root)}, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", _SCRIPT, fate], timeout=60, **options)
    assert re.search(f"{said}.*--resume", done.stdout), done.stdout + done.stderr


@pytest.mark.parametrize("fate", [finds_it_full, finds_it_full_by_name, too_many_files])
def test_what_a_worker_reports_is_explained(fate):
    said = "too many open files: raise the limit" if fate is too_many_files else r"memory \(/dev/shm\).* is full"
    with pytest.raises(WorkerError, match=f"{said}.*--resume"):
        list(explained(DataLoader(Fateful(fate), batch_size=2, num_workers=1)))


def test_other_errors_pass_as_they_are():
    def fails():
        raise KeyError("no such person")

    for num_workers in (0, 1):
        with pytest.raises(KeyError, match="no such person"):
            list(explained(DataLoader(Fateful(fails), num_workers=num_workers)))
    assert list(explained([1, 2])) == [1, 2]
    assert explain(ValueError("shared memory")) is None and explain(RuntimeError("mat1 and mat2")) is None
    assert explain(OSError(28, "No space left on device", "logs/model.pth")) is None  # that is the disk


def serve(ready):
    leave_signals_to_parent()
    os.write(ready, b"1")
    time.sleep(60)


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="the system does not say who sent a signal")
def test_a_worker_is_ended_by_its_parent_only():
    reader, writer = os.pipe()
    worker = multiprocessing.get_context("fork").Process(target=serve, args=(writer,), daemon=True)
    with signals_blocked():
        worker.start()
        subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)  # before it could decide
    os.read(reader, 1)
    for name in ("TERM", "INT", "TERM"):
        subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
    worker.join(0.3)
    assert worker.is_alive()
    worker.terminate()
    worker.join(5)
    assert worker.exitcode == 0


def test_a_death_that_is_noticed_while_a_thread_starts_is_explained():
    died = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
    error = KeyError("<Thread(QueueFeederThread, started daemon 1)>")
    assert workers._explain_anywhere(error) is None
    error.__context__ = died
    assert "a data worker died" in workers._explain_anywhere(error)


@pytest.mark.parametrize(("cores", "processes", "workers"), [(1, 1, 0), (2, 1, 1), (6, 1, 5), (64, 1, 8), (16, 4, 3)])
def test_the_number_of_workers_follows_the_cores(monkeypatch, cores, processes, workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores), raising=False)
    monkeypatch.setattr(comm, "get_world_size", lambda: processes)
    assert number_of_workers(-1) == workers
    assert number_of_workers(0) == 0 and number_of_workers(5) == 5
