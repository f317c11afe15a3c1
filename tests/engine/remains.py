"""What a run leaves in its folder, so that two runs can be compared file by file; and runs that are killed."""

import functools
import multiprocessing.process
import multiprocessing.util
import os
import runpy
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch

from tests.miniature import ROOT

_BENCHMARK = runpy.run_path(str(ROOT / "benchmarks/remains.py"))
remains_of, differences = _BENCHMARK["remains_of"], _BENCHMARK["differences"]

# The first backward pass of a process starts a thread of autograd for each GPU that is then known, and after that a
# fork cannot go backward. Fake tensors make a GPU known. This pass comes before any test, and starts no thread.
torch.zeros(1, requires_grad=True).sum().backward()


def in_a_fork(do: Callable[[], Any], during: Callable[[int], Any] = lambda pid: None) -> int:
    """Exit status of a fork of this process that does something: 0 if it came to the end.

    It leads a process group of its own; ``during(pid)`` is called in this process meanwhile.
    """
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setsid()
            # Data workers that an earlier test left belong to the parent; this process cannot wait for them.
            multiprocessing.process._children.clear()
            multiprocessing.util._finalizer_registry.clear()
            torch.set_num_threads(1)
            do()
            status = 0
        except SystemExit as error:
            print(error, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            try:
                sys.stderr.flush()
                multiprocessing.util._exit_function()  # as at the end of any process: its children are ended
            except BaseException:  # a late signal; the fork must not return into pytest
                traceback.print_exc()
                status = status or 1
            finally:
                os._exit(status)
    during(child)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


KILLED = 77


def killed_at(number: int, *, also_between: bool = False) -> None:
    """Make this process end, as by SIGKILL, at its event ``number``, from 0.

    An event is that a file is put in place, or half of a line of metrics.json written; ``also_between``: that a file is
    flushed to the disk or deleted, too.
    """
    from fastreid.utils import writers

    count = iter(range(10**9))

    def counted(do: Callable[..., Any], before: Callable[..., Any] = lambda *args: None) -> Callable[..., Any]:
        @functools.wraps(do)
        def counting(*args: Any) -> Any:
            if next(count) == number:
                before(*args)
                os._exit(KILLED)
            return do(*args)

        return counting

    os.replace = counted(os.replace)
    if also_between:
        os.unlink, os.fsync = counted(os.unlink), counted(os.fsync)
    writers._write_whole = counted(writers._write_whole, lambda file, line: file.write(line[: len(line) // 2]))
