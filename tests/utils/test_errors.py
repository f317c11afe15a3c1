"""Errors that a user, a disk or a machine can cause end in one sentence; faults of the library keep their traceback."""

import errno
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from fastreid.utils.errors import UserError, reported_as, sentence_of

ROOT = Path(__file__).parents[2]
TOOLS = sorted((ROOT / "tools").glob("*.py"))


def test_user_errors_end_in_one_sentence():
    with pytest.raises(SystemExit, match=r"^tool: error: no file x$"), reported_as("tool"):
        raise UserError("no file x")


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), reported_as("tool"):
        raise ZeroDivisionError


def test_the_traceback_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("FASTREID_DEBUG", "1")
    with pytest.raises(UserError, match="no file x"), reported_as("tool"):
        raise UserError("no file x")


def test_the_log_has_the_traceback(caplog):
    with caplog.at_level(logging.DEBUG, "fastreid"), pytest.raises(SystemExit), reported_as("tool"):
        raise UserError("no file x")
    assert "Traceback" in caplog.text and "no file x" in caplog.text


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EACCES, "there/file may not be read or written by this user"),
        (errno.EISDIR, "there/file is a folder, where a file is wanted"),
        (errno.ENOTDIR, "there/file has a file where a folder is wanted"),
        (errno.ENOSPC, "no space is left on the disk for there/file"),
        (errno.EROFS, "there/file is on a file system that is mounted read-only"),
        (errno.EMFILE, "too many open files, at there/file: raise the limit"),
        (errno.ENAMETOOLONG, "there/file is longer than"),
        (errno.EXDEV, "cannot use there/file: "),
    ],
)
def test_what_the_system_refuses(number, said):
    with pytest.raises(SystemExit, match=f"^tool: error: .*{said}"), reported_as("tool"):
        raise OSError(number, os.strerror(number), "there/file")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("'x/config.json' is not a valid JSON file"), "a file cannot be used: 'x/config.json' is not"),
        (OSError(errno.ENOSPC, "No space left on device"), "no space is left on the disk for a file"),
        (MemoryError("Unable to allocate 8 TiB"), "the memory is full: lower .* \\(Unable to allocate 8 TiB\\)"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "the memory of the GPU is full: lower SOLVER"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "TEST.SDMODEL.MICRO_BATCH, TEST.IMS_PER_BATCH"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "the memory of the GPU is full"),
        (RuntimeError("NCCL error: Cuda failure 2 'out of memory'"), "the memory of the GPU is full"),
        (
            RuntimeError("CUDA error: out of memory\nCUDA kernel errors"),
            "raise SOLVER.ACCUMULATION_STEPS or set",
        ),
        (RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel"), "a class or a view.*MODEL.DEVICE cpu"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "the memory is full"),
        (RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"), "no space is left"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."), "shared memory \\(/dev/shm\\)"),
        (UnicodeEncodeError("ascii", "caf\xe9", 3, 4, "ordinal not in range"), r"caf\\xe9 cannot be written in ascii"),
        (ModuleNotFoundError("No module named 'faiss'", name="faiss"), "package faiss is missing or broken"),
    ],
)
def test_what_the_machine_lacks(error, said):
    import fastreid.data.workers  # noqa: F401 - explains the fate of data workers

    with pytest.raises(SystemExit, match=f"^tool: error: .*{said}"), reported_as("tool"):
        raise error


@pytest.mark.parametrize(
    "error", [FileNotFoundError("of code"), ImportError("x", name="fastreid.x"), RuntimeError("mat1")]
)
def test_faults_of_code_are_none_of_the_users(error):
    assert sentence_of(error) is None


def test_what_is_endless_is_shortened():
    assert len(sentence_of(UserError(f"no file {'x' * 10**6} there"))) < 400
    assert sentence_of(UserError(f"no file {'x' * 900} there")).count("x") == 900


def test_a_full_shared_memory_is_not_taken_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda _: type("Room", (), {"f_bavail": 16, "f_frsize": 4096}))
    said = sentence_of(OSError(errno.ENOSPC, "No space left on device"))
    assert said.startswith("the shared memory (/dev/shm)") and "NUM_WORKERS to 0" in said
    assert "for out/x" in sentence_of(OSError(errno.ENOSPC, "No space left on device", "out/x"))


def test_ctrl_c_has_its_status(capsys):
    with pytest.raises(SystemExit) as stop, reported_as("tool"):
        raise KeyboardInterrupt
    assert stop.value.code == 130 and isinstance(stop.value, KeyboardInterrupt)
    assert capsys.readouterr().err == "tool: interrupted\n"


def test_a_status_passes():
    with pytest.raises(SystemExit) as stop, reported_as("tool"):
        sys.exit(3)
    assert stop.value.code == 3


class Refusing(Dataset):
    def __init__(self, folder):
        self.folder = folder

    def __len__(self):
        return 1

    def __getitem__(self, _):
        if self.folder is None:
            raise UserError("no image 1")
        return open(self.folder)


@pytest.mark.parametrize("folder", [None, "/"])
def test_errors_of_data_workers_are_unwrapped(folder):
    with pytest.raises((UserError, OSError)) as error:
        list(DataLoader(Refusing(folder), num_workers=1))
    wanted = "no image 1" if folder is None else "/ is a folder, where a file is wanted (Is a directory)"
    assert sentence_of(error.value) == wanted


@pytest.mark.parametrize("tool", TOOLS, ids=lambda path: path.stem)
def test_every_tool_reports_at_the_one_place(tool):
    text = tool.read_text(encoding="utf-8")
    assert f'with reported_as("{tool.stem}"):' in text and "sys.exit(f" not in text


def run_python(code, stdout=subprocess.PIPE, **environment):
    paths = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], stdout=stdout, stderr=subprocess.PIPE, text=True, errors="surrogateescape",
        env=os.environ | paths | environment,
    )  # fmt: skip


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
SAYS = r"""
import logging
from fastreid.utils.errors import UserError, reported_as
from fastreid.utils.logger import setup_logger
with reported_as("tool"):
    print("A\u2194G", "caf\udce9")
    setup_logger("{folder}").warning("view A\u2194G of caf\udce9")
    raise UserError("no file caf\udce9 \u2194")
"""


def test_any_text_in_any_locale(tmp_path):
    done = run_python(SAYS.format(folder=tmp_path), **ASCII)
    assert done.returncode == 1 and "Traceback" not in done.stderr and "Logging error" not in done.stderr
    assert done.stderr == "tool: error: no file caf\\udce9 \\u2194\n"
    assert done.stdout.splitlines()[0] == "A\\u2194G caf\\udce9" and "view A\\u2194G of caf\\udce9" in done.stdout
    assert "view A\u2194G of caf\\udce9" in (tmp_path / "log.txt").read_text(encoding="utf-8")


TALKS = """
from fastreid.utils.errors import reported_as
from fastreid.utils.logger import setup_logger
with reported_as("tool"):
    logger = setup_logger("{folder}")
    for line in range(3000):
        logger.info("line %d", line)
"""
PRINTS = """
from fastreid.utils.errors import reported_as
with reported_as("tool"):
    print("x" * 100)
"""


@pytest.mark.parametrize(("code", "status"), [(TALKS, 0), (PRINTS, 141)])
def test_a_reader_that_goes_away_ends_what_it_reads_and_no_training(tmp_path, code, status):
    read, write = os.pipe()
    os.close(read)
    done = run_python(code.format(folder=tmp_path), stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (status, "")
    assert code == PRINTS or "line 2999" in (tmp_path / "log.txt").read_text()


def test_closed_streams(tmp_path):
    command = ["sh", "-c", 'exec "$0" -c "$1" >&- 2>&-', sys.executable, TALKS.format(folder=tmp_path)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0 and "line 2999" in (tmp_path / "log.txt").read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("code", "status", "said"),
    [(TALKS, 0, "cannot write to standard output (No space"), (PRINTS, 1, "tool: error: no space is left on the disk")],
)
def test_output_on_a_full_disk(tmp_path, code, status, said):
    with open("/dev/full", "w") as full:
        done = run_python(code.format(folder=tmp_path), stdout=full)
    assert done.returncode == status and done.stderr.startswith(said) and done.stderr.count("\n") == 1
    assert code == PRINTS or "line 2999" in (tmp_path / "log.txt").read_text()


def test_ctrl_c_leaves_no_traceback():
    done = run_python(
        "from fastreid.utils.errors import reported_as\nwith reported_as('tool'):\n    raise KeyboardInterrupt"
    )
    assert (done.returncode, done.stderr) == (130, "tool: interrupted\n")


STOPPED = """
import os, signal, sys, time
from fastreid.utils.errors import reported_as
from fastreid.utils.files import atomic_write
from fastreid.utils.lock import path_lock

signal.signal(getattr(signal, sys.argv[1]), signal.SIG_DFL)  # nohup ignores SIGHUP
with reported_as("tool"), path_lock("new.txt"), atomic_write("new.txt") as file:
    reader, writer = os.pipe()
    worker = os.fork()
    if not worker:
        os.write(writer, b"1")
        time.sleep(60)
    os.read(reader, 1)
    os.kill(worker, getattr(signal, sys.argv[1]))
    print(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]), flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_ends_a_tool_as_ctrl_c_does_and_its_workers_at_once(tmp_path, name):
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command, pipe = [sys.executable, "-c", STOPPED, name], subprocess.PIPE
    number = getattr(signal, name)
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=tmp_path, env=env) as tool:
        said = tool.stdout.readline().strip()
        tool.send_signal(number)
        _, error = tool.communicate(timeout=60)
    assert said == str(-number)
    assert (tool.returncode, error) == (128 + number, f"tool: stopped by {name}\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("handler", [signal.SIG_IGN, print])
def test_a_handler_of_the_user_stays(handler):
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with reported_as("tool"):
            assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
