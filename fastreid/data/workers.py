"""Data workers: error messages if they die, hang or find the shared memory full, and handling of signals."""

from __future__ import annotations

import contextlib
import gc
import logging
import multiprocessing
import multiprocessing.util
import os
import re
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from typing import Any, TypeVar
from weakref import WeakSet

from torch.utils.data._utils import signal_handling

from fastreid.utils import comm
from fastreid.utils.cores import usable_cores
from fastreid.utils.errors import EXPLANATIONS, UserError

logger = logging.getLogger(__name__)

Batch = TypeVar("Batch")

_SECONDS_TO_WAIT = 2.0
_SECONDS_TO_END = 5.0
_SECONDS_BETWEEN_LOOKS = 3.0
_MOST_WORKERS = 8
_FEWER = "lower DATALOADER.NUM_WORKERS"
_GO_ON = "then go on with --resume"
# torch's message, its meaning, and advice; the first match counts.
_CAUSES = (
    (
        r"shared memory|Bus error|No space left on device.*torch_|torch_.*No space left on device",
        "the shared memory (/dev/shm) in which data workers send batches is full",
        (
            f"make it larger (docker run --shm-size 8g, mount -o remount,size=8G /dev/shm), or {_FEWER} or "
            f"SOLVER.IMS_PER_BATCH, {_GO_ON}"
        ),
    ),
    (
        r"timed out after",
        "no data worker delivered a batch in DATALOADER.TIMEOUT seconds",
        (
            "see whether the disk that the images are on answers; if it is only slow, raise DATALOADER.TIMEOUT "
            f"(0 waits without limit), {_GO_ON}"
        ),
    ),
    (
        r"Too many open files|received \d+ items of ancdata",
        "a process has too many open files",
        f"raise the limit (ulimit -n 65535) or {_FEWER}, {_GO_ON}",
    ),
    (
        (
            r"(DataLoader worker .*|Pin memory thread) (exited unexpectedly|.*killed by signal)|"
            r"Connection reset|Broken pipe|EOFError"
        ),
        "a data worker died",
        (
            f"if it was killed, the memory was full: {_FEWER}; if by a bus error, the shared memory was (docker run "
            f"--shm-size 8g); if it crashed, DATALOADER.NUM_WORKERS 0 shows where; {_GO_ON}"
        ),
    ),
)


class WorkerError(UserError, RuntimeError):
    """Data workers cannot continue; the message says why, and what to do."""


def number_of_workers(given: int) -> int:
    """Return the number of data workers of this process.

    Args:
        given: DATALOADER.NUM_WORKERS; -1 stands for the cores of this process but one, shared by the processes of the
            run, and at most 8.
    """
    if given >= 0:
        return given
    return min(_MOST_WORKERS, max(0, usable_cores() // comm.get_world_size() - 1))


_started: WeakSet[BaseProcess] = WeakSet()
_at_exit: multiprocessing.util.Finalize | None = None


@contextlib.contextmanager
def starting_workers() -> Iterator[None]:
    """Around the start of data workers.

    SIGTERM and Ctrl-C are blocked in this thread, and in the workers until they set their own handlers. The workers end
    with this process: multiprocessing sends them SIGTERM and waits for them, but a worker that hung in ``os.fork``, as
    Python's locks can make it, has SIGTERM still blocked. It is killed.
    """
    global _at_exit
    _hear_of_deaths()
    before = set(multiprocessing.active_children())
    if _at_exit is None or not _at_exit.still_active():  # a forked process has none
        _at_exit = multiprocessing.util.Finalize(None, _end_workers, exitpriority=0)
    try:
        with _signals_blocked():
            yield
    finally:
        _started.update(child for child in multiprocessing.active_children() if child not in before)


def _end_workers() -> None:
    workers = [child for child in multiprocessing.active_children() if child in _started]
    for worker in workers:
        worker.terminate()
    end = time.monotonic() + _SECONDS_TO_END
    for worker in workers:
        worker.join(max(0.0, end - time.monotonic()))
    for worker in workers:
        if worker.is_alive():
            worker.kill()


_waiting = False


def _hear_of_deaths() -> None:
    """Let torch raise its error about a worker that died where the main thread waits for a batch, and nowhere else.

    torch raises it in its handler of SIGCHLD, so anywhere: in the middle of a save, where the error of the unfinished
    file hides it, or in the start of a thread, which then prints a traceback.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return
    signal_handling._set_SIGCHLD_handler()
    handler = signal.getsignal(signal.SIGCHLD)
    if not callable(handler) or getattr(handler, "__module__", "") == __name__:
        return

    def hear(number: int, frame: Any) -> None:
        try:
            handler(number, frame)
        except RuntimeError:
            if _waiting:
                raise

    signal.signal(signal.SIGCHLD, hear)


def _next(iterator: Iterator[Batch]) -> Batch:
    """The next batch; an error if a worker has died before or dies now."""
    global _waiting
    before, _waiting = _waiting, threading.current_thread() is threading.main_thread()
    try:
        if death := _death_of_worker(iterator):
            raise death
        return next(iterator)
    finally:
        _waiting = before


def _death_of_worker(iterator: Iterator[object], seconds: float = 0.0) -> RuntimeError | None:
    """An error, in torch's words, if a worker of torch's iterator has died; wait this long for that.

    torch notices neither a worker that dies while others are being started nor one whose exit status another part of
    the program has read.
    """
    workers, work = getattr(iterator, "_workers", ()), getattr(iterator, "_workers_status", ())
    end = time.monotonic() + seconds
    while True:
        for worker, works in zip(workers, work, strict=False):
            if works and (status := worker.exitcode) is not None:
                how = f"is killed by signal: {signal.strsignal(-status)}" if status < 0 else "exited unexpectedly"
                return RuntimeError(f"DataLoader worker (pid {worker.pid}) {how}")
        if time.monotonic() >= end:
            return None
        time.sleep(0.02)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin_worker(worker: int) -> None:
    """In a data worker, before its first batch; `worker` is its number.

    The thread that hands out the shared memory of batches prints its errors. It has one if the parent stops in the
    middle of a batch; that is a consequence, which is logged at level DEBUG instead.
    """
    leave_signals_to_parent()
    sys.excepthook = lambda *error: logger.debug("data worker %d", worker, exc_info=error)
    gc.freeze()  # otherwise a collection would touch, and so copy, the memory that the parent has allocated


def leave_signals_to_parent() -> None:
    """In a data worker: ignore Ctrl-C, and SIGTERM from other processes than the parent; end with the parent.

    A terminal sends Ctrl-C to all processes of a run, a scheduler SIGTERM. The run then finishes its iteration and
    needs its workers for that. SIGTERM from the parent still ends a worker. A worker whose parent was killed would not
    end by itself: it first writes its last batches to a pipe, and no process reads them any more.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "win32":
        return
    if hasattr(signal, "sigtimedwait"):  # it names the sender; macOS lacks it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with, args=(os.getppid(),), name="signals", daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        if not hasattr(signal, "sigtimedwait"):
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        elif (sent := signal.sigtimedwait({signal.SIGTERM}, _SECONDS_BETWEEN_LOOKS)) and sent.si_pid == parent:
            break
    os._exit(0)


def explain(error: BaseException) -> str | None:
    """A sentence for an error of the worker processes; None for errors of the code that they run."""
    if not isinstance(error, RuntimeError | OSError | EOFError):
        return None
    if isinstance(error, WorkerError):
        return str(error)
    message = str(error).strip() or type(error).__name__
    for pattern, what, help_ in _CAUSES:
        if re.search(pattern, message, re.DOTALL):
            return f"{what}: {help_} ({message.splitlines()[-1]})"
    return None


def _explain_anywhere(error: BaseException) -> str | None:
    """As `explain`, for errors outside of `explained`, as of a user's own DataLoader."""
    return explain(error) if isinstance(error, RuntimeError) else None


EXPLANATIONS.append(_explain_anywhere)


def explained(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield the batches; errors of the workers say what to do.

    Raises:
        WorkerError: a worker died, hangs, or has no shared memory.
    """
    _hear_of_deaths()
    iterator = iter(batches)
    _end_with_iterator(iterator)
    while True:
        try:
            batch = _next(iterator)
        except StopIteration:
            return
        except Exception as error:
            seconds = _SECONDS_TO_WAIT if isinstance(error, ConnectionError | EOFError) else 0.0
            cause = _death_of_worker(iterator, seconds) or error
            if "timed out after" in str(error) and _lost_pin_thread(iterator):
                cause = RuntimeError("Pin memory thread exited unexpectedly")  # torch does not look at it
            if sentence := explain(cause):
                raise WorkerError(sentence) from error
            raise
        yield batch


def _end_with_iterator(iterator: Iterator[object]) -> None:
    """Ask the workers of torch's iterator to end before it is collected as a part of a cycle, such as a trainer.

    Its own destructor may find the pipes to them closed already, and would wait five seconds for them. With pinned
    memory it is left to the destructor, which ends the thread that reads from the workers before them.
    """
    queues, ended = getattr(iterator, "_index_queues", None), getattr(iterator, "_workers_done_event", None)
    if queues and ended is not None and not hasattr(iterator, "_pin_memory_thread"):
        weakref.finalize(iterator, _ask_to_end, queues, ended, os.getpid()).atexit = False


def _ask_to_end(queues: list[Queue[object]], ended: Event, owner: int) -> None:
    if os.getpid() == owner:  # not in a process that was forked later
        ended.set()
        for queue in queues:
            with contextlib.suppress(ValueError):  # closed: the worker has been told
                queue.put(None)


def _lost_pin_thread(iterator: Iterator[object]) -> bool:
    """Whether the thread that copies batches to pinned memory, for a GPU, has ended: it does if it loses a worker."""
    thread = getattr(iterator, "_pin_memory_thread", None)
    return isinstance(thread, threading.Thread) and not thread.is_alive()
