"""A Python that has imported torch and its companions: a command starts in a moment instead of in seconds.

`warm_python()` is a path that stands for `sys.executable` in a command line. It is a small client. It sends the
command, the folder, the environment and its open files to a server, which has imported the packages and forks. It
passes signals on and ends as the command ends; if it is killed, the command is killed.

What is decided before the first line of a program is decided by the server: all commands have one seed of hashes, for
instance, and import what the server has imported. Where this matters, call `sys.executable`. The client does so itself
if there are options of Python, or if variables that Python reads at its start are not those of the tests.
"""

import atexit
import fcntl
import functools
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import types
from pathlib import Path
from typing import NoReturn

PACKAGES = (
    *("numpy", "torch", "torch.distributed.fsdp", "torch.utils.tensorboard", "torchvision.transforms.v2", "timm"),
    *("scipy.sparse", "sklearn.cluster", "diffusers.models.unets.unet_2d_condition", "torch.distributed.run"),
)

_MOST_FILES = 200  # that a command inherits
_ABOVE = 500  # numbers of files that no command inherits

_CLIENT = """#!{python} -IS
import sys
sys.path.insert(0, {folder!r})
from warm_python import ask
ask({python!r}, {address!r}, {variables!r})
"""


@functools.cache
def warm_python() -> str:
    """Return the path of the client; the server is started by the first call, and ends with this process."""
    if not hasattr(os, "pidfd_open"):  # Linux
        return sys.executable
    folder = Path(tempfile.mkdtemp(prefix="warm_python_"))
    address = str(folder / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        command = [sys.executable, __file__, str(listener.fileno())]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[listener.fileno()])
    atexit.register(end, server, folder)
    client = folder / "python"
    here = str(Path(__file__).parent)
    client.write_text(_CLIENT.format(python=sys.executable, folder=here, address=address, variables=python_variables()))
    client.chmod(0o755)
    return str(client)


def end(server: subprocess.Popen[bytes], folder: Path) -> None:
    """End the server, and delete its folder."""
    server.kill()
    server.communicate()
    shutil.rmtree(folder)


def python_variables() -> dict[str, str]:
    """Return the variables that Python reads at its start; the path is set again for each command."""
    others = ("PYTHONPATH", "PYTHON_BIN", "PYTHON")  # the last two are of our scripts
    return {name: text for name, text in os.environ.items() if name.startswith("PYTHON") and name not in others}


def ask(python: str, address: str, variables: dict[str, str]) -> NoReturn:
    """Let the server run a command with the files, folder and environment of this process, and end as it does."""
    words = sys.argv[1:]
    if words[:1] == ["-B"] and "PYTHONDONTWRITEBYTECODE" in variables:
        del words[0]  # multiprocessing gives it
    if python_variables() != variables or not words or (words[0].startswith("-") and words[0] not in ("-c", "-m")):
        os.execv(python, [python, *words])
    files = [int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")]
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        asked = {"python": sys.argv[0], "words": words, "files": files}
        asked |= {"folder": os.getcwd(), "environment": dict(os.environ)}
        socket.send_fds(server, [b"\n"], files)
        server.sendall(json.dumps(asked).encode() + b"\n")
        answers = server.makefile()
        pid = int(answers.readline())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: os.kill(pid, number))
        status = os.waitstatus_to_exitcode(int(answers.readline()))
    end_as(status)


def end_as(status: int) -> NoReturn:
    """End this process at once with an exit status, or by a signal if it is negative."""
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status & 255)


def serve(listener: socket.socket) -> list[str]:
    """Fork for each command until standard input is closed, and return in the process of a command, with its words."""
    for package in PACKAGES:
        importlib.import_module(package)
    assert len(os.listdir("/proc/self/task")) == 1, "a process with threads must not fork"
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that processes that watched a command leave no zombies
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return become(connection)
        connection.close()
    os._exit(0)


def become(connection: socket.socket) -> list[str]:
    """Become the command that a client asks for; this process watches it, and the process that returns runs it."""
    _, files, _, _ = socket.recv_fds(connection, 1, _MOST_FILES)
    with connection.makefile() as lines:
        asked = json.loads(lines.readline())
    if pid := os.fork():
        for file in files:
            os.close(file)
        watch(pid, connection)
    connection.close()
    files = [fcntl.fcntl(file, fcntl.F_DUPFD, _ABOVE) for file in files]
    os.closerange(3, _ABOVE)
    for file, number in zip(files, asked["files"], strict=True):
        os.dup2(file, number)
        os.close(file)
    os.chdir(asked["folder"])
    multiprocessing.process.ORIGINAL_DIR = asked["folder"]  # where relative names of spawned processes begin
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.stdin = sys.__stdin__ = os.fdopen(0, closefd=False)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)
    sys.stdout.reconfigure(write_through="PYTHONUNBUFFERED" in os.environ)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    sys.modules["numpy"].random.seed()
    sys.executable = asked["python"]  # for what it starts
    multiprocessing.set_executable(sys.executable)
    return asked["words"]


def watch(pid: int, connection: socket.socket) -> NoReturn:
    """Tell the client the number of the process and how it ends; kill it if the client is gone."""
    connection.sendall(f"{pid}\n".encode())
    ended = os.pidfd_open(pid)
    if connection in select.select([ended, connection], [], [])[0]:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    try:
        connection.sendall(f"{status}\n".encode())
    finally:
        os._exit(0)


def run(words: list[str]) -> None:
    """Run `SCRIPT …`, `-c CODE …` or `-m MODULE …` as Python does."""
    first, *rest = words
    before = [word for word in os.environ.get("PYTHONPATH", "").split(os.pathsep) if word]
    folder = {"-c": "", "-m": os.getcwd()}.get(first, os.path.dirname(os.path.realpath(first)))
    sys.path[:] = [folder, *before, *sys.path[1:]]
    if first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        return
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    if first == "-c":
        sys.argv, code = ["-c", *rest[1:]], compile(rest[0], "<string>", "exec")
    else:
        sys.argv, main.__file__ = words, first
        code = compile(Path(first).read_bytes(), first, "exec")
    exec(code, main.__dict__)


def status_of(words: list[str]) -> int:
    """Run a command, and return its exit status; -2 for Ctrl-C."""
    try:
        run(words)
    except SystemExit as end:
        if isinstance(end.code, int | None):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


def leave(status: int) -> NoReturn:
    """End this process as Python does, but without clearing the modules, which takes seconds."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if not stream.closed:
            stream.flush()
    end_as(status)


if __name__ == "__main__":
    leave(status_of(serve(socket.socket(fileno=int(sys.argv[1])))))
