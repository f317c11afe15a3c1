"""One folder, one writer: who holds it is named, and a process that is killed leaves no lock."""

import errno
import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from fastreid.utils import lock
from fastreid.utils.lock import NAME, InUseError, NotWritableError, acquire, folder_lock, is_locked, path_lock, release

HOLDER = """
    import os, sys, time
    from fastreid.utils.lock import acquire
    acquire({folder!r})
    reader, writer = os.pipe()
    child = os.fork() if {forks} else 0
    if child:
        os.read(reader, 1)  # a busy machine may start the child late
    os.write(writer, b".")
    if child or not {forks}:
        print("held", child, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Start a process that holds `tmp_path / "run"`: (forks) -> (it, pid of its child or 0)."""
    started = []

    def start(forks=False):
        code = textwrap.dedent(HOLDER.format(folder=str(tmp_path / "run"), forks=forks))
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process, int(process.stdout.readline().split()[1])

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_the_second_process_is_refused_and_reads_who_holds_it(tmp_path, holder):
    process, _ = holder()
    with pytest.raises(InUseError) as refused:
        acquire(tmp_path / "run")
    said = str(refused.value)
    assert re.search(rf"run is in use by process {process.pid} on \S+, started 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", said)
    assert "python" in said and " -c" in said  # the command
    process.terminate()
    process.wait()
    with folder_lock(tmp_path / "run"):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="data workers are forked on Unix")
def test_nothing_is_left_of_a_killed_process_though_its_workers_live(tmp_path, holder):
    process, worker = holder(forks=True)
    try:
        with pytest.raises(InUseError):
            acquire(tmp_path / "run")
        process.kill()
        process.wait()
        os.kill(worker, 0)  # it lives
        with folder_lock(tmp_path / "run"):
            assert str(os.getpid()) in (tmp_path / "run" / NAME).read_text()
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_worker_that_ends_does_not_drop_the_lock(tmp_path):
    with folder_lock(tmp_path):
        if not (child := os.fork()):
            release(tmp_path)
            os._exit(0)
        os.waitpid(child, 0)
        assert (tmp_path / NAME).exists()
        assert refused_elsewhere(tmp_path)


def refused_elsewhere(folder):
    """Whether another process is refused."""
    code = f"from fastreid.utils.lock import acquire; acquire({str(folder)!r})"
    return "InUseError" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr


def test_the_process_itself_may_come_again(tmp_path):
    with folder_lock(tmp_path / "a"):
        with folder_lock(tmp_path / "a"):
            pass
        assert refused_elsewhere(tmp_path / "a")
    assert os.listdir(tmp_path / "a") == []
    assert not refused_elsewhere(tmp_path / "a")


def test_a_link_to_the_folder_is_the_folder(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with folder_lock(tmp_path / "real"):
        assert refused_elsewhere(tmp_path / "link")
        with folder_lock(tmp_path / "link"):  # this process has it
            pass


def test_waiting_ends_when_the_other_does(tmp_path, holder, caplog):
    process, _ = holder()
    process.send_signal(signal.SIGSTOP)  # one that is stopped still holds it
    with pytest.raises(InUseError):
        acquire(tmp_path / "run")
    process.kill()
    with folder_lock(tmp_path / "run", wait=True):
        pass
    process, _ = holder()
    killer = subprocess.Popen([sys.executable, "-c", f"import os, time; time.sleep(1); os.kill({process.pid}, 9)"])
    start = time.monotonic()
    with folder_lock(tmp_path / "run", wait=True):
        assert time.monotonic() - start > 0.3
    killer.wait()
    assert f"in use by process {process.pid}" in caplog.text and "waiting until it has ended" in caplog.text


def test_files_are_held_from_beside_them(tmp_path):
    with path_lock(tmp_path / "a.json", None, tmp_path / "b.json"):
        assert sorted(os.listdir(tmp_path)) == [".a.json.lock", ".b.json.lock"]
        code = f"from fastreid.utils.lock import path_lock\nwith path_lock({str(tmp_path / 'b.json')!r}): pass"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert f"b.json is in use by process {os.getpid()}" in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_file_in_a_folder_that_is_held_is_held(tmp_path, holder):
    process, _ = holder()
    with pytest.raises(InUseError, match=f"run is in use by process {process.pid}"), path_lock(tmp_path / "run/x.pth"):
        pass
    process.kill()
    process.wait()
    with path_lock(tmp_path / "run/x.pth"):  # SIGKILL left the lock file behind
        pass
    with folder_lock(tmp_path / "run"), path_lock(tmp_path / "run/x.pth"):
        pass


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def no_locks(descriptor):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "_lock", no_locks)
    with folder_lock(tmp_path):
        assert "without locks (No locks available): make sure that only one process" in caplog.text


def test_a_folder_that_cannot_be_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritableError, match=r"file is a file, where a folder is wanted: move it away"):
        acquire(tmp_path / "file")
    with pytest.raises(NotWritableError, match="has a file where a folder is wanted"):
        acquire(tmp_path / "file" / "run")


def test_a_lock_file_whose_holder_removed_it_is_not_believed(tmp_path, monkeypatch):
    locked, path = lock._lock, tmp_path / NAME

    def removed_meanwhile(descriptor):
        locked(descriptor)
        monkeypatch.setattr(lock, "_lock", locked)
        path.unlink()

    monkeypatch.setattr(lock, "_lock", removed_meanwhile)
    with folder_lock(tmp_path):
        assert path.exists() and refused_elsewhere(tmp_path)


def test_locks_of_files_are_seen(tmp_path):
    assert not is_locked(tmp_path / "a.json") and os.listdir(tmp_path) == []
    with path_lock(tmp_path / "a.json"):
        assert is_locked(tmp_path / "a.json") and not is_locked(tmp_path / "b.json")
    (tmp_path / ".a.json.lock").touch()  # of a process that was killed
    assert not is_locked(tmp_path / "a.json")
