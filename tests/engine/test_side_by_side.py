"""Several processes at once: how many run, what they get of the machine, and signals."""

import os
import signal
import sys
import threading
import time

import pytest
import torch

from fastreid.engine.side_by_side import SideBySide, share_of_machine
from fastreid.utils.errors import Cancelled

# Waits until a file is there, and ends with a status; on SIGTERM it writes that it was stopped.
WAITER = """
import pathlib, signal, sys, time
here, status = pathlib.Path(sys.argv[1]), int(sys.argv[2])
def stop(*_):
    here.with_suffix(".stopped").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
print("started", flush=True)
here.with_suffix(".started").touch()
while not here.exists():
    time.sleep(0.02)
sys.exit(status)
"""


def started(folder, *names, seconds=60):
    end = time.monotonic() + seconds
    while not all((folder / name).with_suffix(".started").exists() for name in names):
        assert time.monotonic() < end
        time.sleep(0.02)


def start(running, folder, name, status=0):
    running.start(name, [sys.executable, "-c", WAITER, str(folder / name), str(status)], folder / f"{name}.txt")


def test_processes_run_at_once_and_are_told_as_they_end(tmp_path):
    with SideBySide(2) as running:
        start(running, tmp_path, "one", 3)
        assert not running.is_full
        start(running, tmp_path, "two")
        assert running.is_full and len(running) == 2
        started(tmp_path, "one", "two")
        (tmp_path / "two").touch()
        assert running.wait() == ("two", 0) and not running.is_full
        start(running, tmp_path, "three")
        (tmp_path / "one").touch()
        assert running.wait() == ("one", 3)
        (tmp_path / "three").touch()
        assert running.wait() == ("three", 0) and len(running) == 0
    assert (tmp_path / "one.txt").read_text() == "started\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_all_of_them(tmp_path, number, status):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Cancelled) as raised, SideBySide(3) as running:
        start(running, tmp_path, "one")
        start(running, tmp_path, "two")
        started(tmp_path, "one", "two")
        threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
        running.wait()
    assert raised.value.code == status and running.is_full
    assert all((tmp_path / f"{name}.stopped").exists() for name in ("one", "two"))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_an_error_stops_all_of_them(tmp_path):
    with pytest.raises(ValueError, match="mine"), SideBySide(2) as running:
        start(running, tmp_path, "one")
        started(tmp_path, "one")
        raise ValueError("mine")
    assert (tmp_path / "one.stopped").exists()


def test_each_has_a_share_of_the_machine(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("fastreid.engine.side_by_side.usable_cores", lambda: 16)
    gpus = 0
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert share_of_machine(0, 1, 1) == {}
    assert share_of_machine(1, 3, 1) == {"OMP_NUM_THREADS": "5"}
    gpus = 4
    assert [share_of_machine(place, 2, 2)["CUDA_VISIBLE_DEVICES"] for place in range(2)] == ["0,1", "2,3"]
    assert [share_of_machine(place, 5, 1)["CUDA_VISIBLE_DEVICES"] for place in range(5)] == ["0", "1", "2", "3", "0"]
    assert "CUDA_VISIBLE_DEVICES" not in share_of_machine(0, 2, 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,5,3,1")
    assert share_of_machine(1, 4, 1)["CUDA_VISIBLE_DEVICES"] == "5"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert "OMP_NUM_THREADS" not in share_of_machine(0, 2, 1)
