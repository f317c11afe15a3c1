"""A command that the warm Python runs does what it does in Python itself."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch.multiprocessing

from tests.warm_python import warm_python

PROGRAMS = {
    "words": "import sys; print(sys.argv[1:], __name__, sys.path[0] == '', file=sys.stderr)",
    "status": "import sys; sys.exit(3)",
    "sentence": "import sys; sys.exit('no such file')",
    "killed": "import os; os.kill(os.getpid(), 9)",
    "stopped": "raise KeyboardInterrupt",
    "folder and environment": "import os; print(os.getcwd(), os.environ['GREETING'])",
    "input": "print(input())",
    "end": "import atexit, threading, time; atexit.register(print, 'last')\n"
    "threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()",
    "module": "import __main__; print(__main__.__dict__ is globals(), hasattr(__main__, '__file__'))",
}


def outcome(python, *words, **options):
    environment = os.environ | {"GREETING": "good morning"}
    done = subprocess.run([python, *words], capture_output=True, text=True, env=environment, input="line\n", **options)
    return done.returncode, done.stdout, done.stderr.splitlines()[-1:]


@pytest.mark.parametrize("program", PROGRAMS)
def test_code_ends_and_says_the_same(program, tmp_path):
    words = ("-c", PROGRAMS[program], "--a", "b c")
    assert outcome(warm_python(), *words, cwd=tmp_path) == outcome(sys.executable, *words, cwd=tmp_path)


def test_scripts_and_modules(tmp_path):
    (tmp_path / "beside.py").write_text("NAME = 'beside'")
    (tmp_path / "script.py").write_text("import sys, beside\nprint(sys.argv, beside.NAME, __file__, sys.path[0])")
    for words, folder in (((str(tmp_path / "script.py"), "a"), "/"), (("-m", "script", "a"), tmp_path)):
        warm, plain = (outcome(python, *words, cwd=folder) for python in (warm_python(), sys.executable))
        assert warm == plain and warm[0] == 0


def test_it_has_imported_torch_unless_python_is_given_options():
    code = "import sys; print('torch' in sys.modules)"
    assert outcome(warm_python(), "-c", code)[1] == "True\n"
    assert outcome(warm_python(), "-X", "utf8", "-c", code)[1] == "False\n"


def test_signals_reach_the_command_and_it_is_killed_with_the_client():
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    for number in (signal.SIGTERM, signal.SIGKILL):
        client = subprocess.Popen([warm_python(), "-c", code], stdout=subprocess.PIPE, text=True)
        with client:
            command = int(client.stdout.readline())
            client.send_signal(number)
            assert client.wait(10) == -number
        deadline = time.monotonic() + 10
        while os.path.exists(f"/proc/{command}"):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def record(rank, folder):
    (folder / str(rank)).write_text(str("torch._dynamo" in sys.modules))


@pytest.mark.usefixtures("warm_ranks")
def test_spawned_processes_start_from_it(tmp_path):
    torch.multiprocessing.spawn(record, args=(tmp_path,), nprocs=2)
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["True"] * 2


def test_a_command_inherits_open_files(tmp_path):
    reader, writer = os.pipe()
    done = subprocess.run([warm_python(), "-c", f"import os; os.write({writer}, b'said')"], pass_fds=[writer])
    os.close(writer)
    with open(reader) as pipe:
        assert (done.returncode, pipe.read()) == (0, "said")
