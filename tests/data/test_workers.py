"""Data workers that die, hang or run out of shared memory: an error in time, with what to do."""

import gc
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch.utils.data import DataLoader, Dataset

from fastreid.data.workers import (
    WorkerError,
    begin_worker,
    explain,
    explained,
    leave_signals_to_parent,
    number_of_workers,
    starting_workers,
)
from fastreid.utils import comm
from tests.processes import is_running
from tests.warm_python import warm_python


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


def run_script(code, *words):
    root = Path(__file__).parents[2]
    options = {"cwd": root, "env": os.environ | {"PYTHONPATH": str(root)}, "capture_output": True, "text": True}
    return subprocess.run([warm_python(), "-c", code, *words], timeout=60, **options)


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
    done = run_script(_SCRIPT, fate)
    assert re.search(f"{said}.*--resume", done.stdout), done.stdout + done.stderr


@pytest.mark.parametrize("fate", [finds_it_full, finds_it_full_by_name, too_many_files])
def test_what_a_worker_reports_is_explained(fate):
    said = "too many open files: raise the limit" if fate is too_many_files else r"memory \(/dev/shm\).* is full"
    with pytest.raises(WorkerError, match=f"{said}.*--resume"):
        list(explained(DataLoader(Fateful(fate), batch_size=2, num_workers=1)))


class WithoutPinThread:
    """The iterator of a loader whose thread for pinned memory has ended."""

    def __init__(self, message):
        self._pin_memory_thread, self._message = threading.Thread(target=int), message
        self._pin_memory_thread.start()
        self._pin_memory_thread.join()

    def __iter__(self):
        return self

    def __next__(self):
        raise RuntimeError(self._message)


@pytest.mark.parametrize("message", ["DataLoader timed out after 600 seconds", "Pin memory thread exited unexpectedly"])
def test_the_end_of_the_thread_for_pinned_memory_is_that_of_a_worker(message):
    with pytest.raises(WorkerError, match=r"a data worker died: .*Pin memory thread exited unexpectedly\)"):
        next(explained(WithoutPinThread(message)))


def test_other_errors_pass_as_they_are():
    def fails():
        raise KeyError("no such person")

    for num_workers in (0, 1):
        with pytest.raises(KeyError, match="no such person"):
            list(explained(DataLoader(Fateful(fails), num_workers=num_workers)))
    assert list(explained([1, 2])) == [1, 2]
    assert explain(ValueError("shared memory")) is None and explain(RuntimeError("mat1 and mat2")) is None
    assert explain(OSError(28, "No space left on device", "logs/model.pth")) is None  # that is the disk


def test_workers_end_when_what_holds_them_is_collected():
    """A trainer and its hooks hold each other; torch by itself may wait five seconds for each worker."""
    before = set(multiprocessing.active_children())
    holders = [SimpleNamespace(batches=explained(DataLoader(range(99), num_workers=1))) for _ in range(4)]
    for holder in holders:
        holder.itself = holder
        next(holder.batches)
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 4
    del holders, holder
    start = time.monotonic()
    gc.collect()
    assert time.monotonic() - start < 4
    assert [worker.exitcode for worker in workers] == [0] * 4


def serve(ready):
    leave_signals_to_parent()
    os.write(ready, b"1")
    time.sleep(60)


@pytest.mark.skipif(not hasattr(signal, "sigtimedwait"), reason="the system does not say who sent a signal")
def test_a_worker_is_ended_by_its_parent_only():
    reader, writer = os.pipe()
    worker = multiprocessing.get_context("fork").Process(target=serve, args=(writer,), daemon=True)
    with starting_workers():
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


class Sharing(Dataset):
    """Its item is how a worker ends whose thread for shared memory has lost the parent."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        sys.excepthook(ConnectionResetError, ConnectionResetError("by peer"), None)
        return index


def test_what_a_worker_says_when_the_parent_has_stopped_is_not_printed(capfd):
    assert len(list(DataLoader(Sharing(), num_workers=1, worker_init_fn=begin_worker))) == 1
    assert "by peer" not in capfd.readouterr().err


# The pipe to the parent is full when the parent is killed, and its reading end is also open in the worker.
LEAVES_A_FULL_PIPE = """
import multiprocessing, os, signal, sys, time
import numpy as np
from torch.utils.data import DataLoader
from fastreid.data.workers import begin_worker, explained

loader = DataLoader(np.zeros((99, 300_000), np.uint8), num_workers=1, collate_fn=list, worker_init_fn=begin_worker)
batches = explained(loader)
next(batches)
time.sleep(1)
with open(sys.argv[1], "w") as file:
    file.write(str(multiprocessing.active_children()[0].pid))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_worker_ends_if_its_parent_was_killed(tmp_path):
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", LEAVES_A_FULL_PIPE, str(tmp_path / "pid")], timeout=120, env=env)
    assert done.returncode == -signal.SIGKILL
    worker, end = int((tmp_path / "pid").read_text()), time.monotonic() + 30
    while (is_alive := is_running(worker)) and time.monotonic() < end:
        time.sleep(0.1)
    if is_alive:
        os.kill(worker, signal.SIGKILL)
    assert not is_alive


# SIGTERM stays blocked in a worker that hangs in os.fork; here it hangs a little later. torch watches the worker.
LEAVES_A_HANGING_WORKER = """
import os, sys, time
from torch.utils.data import DataLoader
from fastreid.data import workers
from fastreid.data.workers import starting_workers
from fastreid.engine import launch

workers._SECONDS_TO_END = 1.0
kept = []

def hang(worker):
    os.write(int(os.environ["READY"]), b"1")
    time.sleep(600)

def main():
    reader, writer = os.pipe()
    os.environ["READY"] = str(writer)
    with starting_workers():
        kept.append(iter(DataLoader(range(4), num_workers=3, worker_init_fn=hang, multiprocessing_context="fork")))
    assert all(os.read(reader, 1) for _ in range(3))
    if len(sys.argv) > 2:
        raise ValueError("the run failed")

if __name__ == "__main__":
    launch(main, int(sys.argv[1]), device="cpu")
"""


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="the system cannot block signals")
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("fails", [(), ("fails",)])
def test_a_worker_that_hangs_does_not_keep_a_run_from_ending(tmp_path, processes, fails):
    (tmp_path / "leaves.py").write_text(LEAVES_A_HANGING_WORKER)
    command = [warm_python(), str(tmp_path / "leaves.py"), str(processes), *fails]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
    assert "killed by signal" not in done.stderr
    assert (done.returncode, "the run failed" in done.stderr) == ((1, True) if fails else (0, False))
    assert fails or "Traceback" not in done.stderr


# A worker dies while the main process does other work, as in a save; torch raises its error in the middle of that.
DIES_DURING_OTHER_WORK = """
import multiprocessing, time
from torch.utils.data import DataLoader
from fastreid.data.workers import explained

batches = explained(DataLoader(range(99), num_workers=2, timeout=5))
next(batches)
multiprocessing.active_children()[0].kill()
end = time.monotonic() + 0.5
while time.monotonic() < end:  # the work
    pass
multiprocessing.active_children()  # reads the exit status, after which torch finds no death any more
print("work done", flush=True)
list(batches)
"""
# A worker dies before torch watches it.
DIES_DURING_THE_START = """
import multiprocessing, time
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling
from fastreid.data.workers import explained
from tests.data import test_workers

def watch_late(*args, watch=signal_handling._set_worker_pids):
    time.sleep(0.5)
    multiprocessing.active_children()  # as the start of a process does
    print("work done", flush=True)
    watch(*args)

def begin(worker):
    if worker == 1:
        test_workers.killed()

signal_handling._set_worker_pids = watch_late
list(explained(DataLoader(range(99), num_workers=2, timeout=5, worker_init_fn=begin)))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("script", [DIES_DURING_OTHER_WORK, DIES_DURING_THE_START])
def test_a_death_at_any_time_is_noticed_and_interrupts_no_other_work(script):
    done = run_script(script)
    assert done.stdout == "work done\n", done.stdout + done.stderr
    said = done.stderr.splitlines()[-1]
    assert "WorkerError: a data worker died: if it was killed" in said and "is killed by signal: Killed)" in said


@pytest.mark.parametrize(("cores", "processes", "workers"), [(1, 1, 0), (2, 1, 1), (6, 1, 5), (64, 1, 8), (16, 4, 3)])
def test_the_number_of_workers_follows_the_cores(monkeypatch, cores, processes, workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores), raising=False)
    monkeypatch.setattr(comm, "get_world_size", lambda: processes)
    assert number_of_workers(-1) == workers
    assert number_of_workers(0) == 0 and number_of_workers(5) == 5
