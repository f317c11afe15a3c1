"""Data workers that die, hang, or find the shared memory full: what happened, and what to do about it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from fastreid.utils.errors import EXPLANATIONS, UserError

Batch = TypeVar("Batch")

_SECONDS_TO_HEAR = 2.0
_FEWER = "lower DATALOADER.NUM_WORKERS"
_GO_ON = "then go on with --resume"
# What torch says, what it means, and what helps; the first that fits counts.
_CAUSES = (
    (
        r"shared memory|Bus error|No space left on device.*torch_|torch_.*No space left on device",
        "the shared memory (/dev/shm) in which data workers hand over batches is full",
        f"make it larger (docker run --shm-size 8g, mount -o remount,size=8G /dev/shm), or {_FEWER} or "
        f"SOLVER.IMS_PER_BATCH, {_GO_ON}",
    ),
    (
        r"timed out after",
        "no data worker delivered a batch in DATALOADER.TIMEOUT seconds",
        "see whether the disk that the images are on answers; if it is only slow, raise DATALOADER.TIMEOUT "
        f"(0 waits for ever), {_GO_ON}",
    ),
    (
        r"Too many open files|received \d+ items of ancdata",
        "a process has too many open files",
        f"raise the limit (ulimit -n 65535) or {_FEWER}, {_GO_ON}",
    ),
    (
        r"DataLoader worker .*(exited unexpectedly|killed by signal)|Connection reset|Broken pipe|EOFError",
        "a data worker died",
        f"if it was killed, the memory was full: {_FEWER}; if by a bus error, the shared memory was (docker run "
        f"--shm-size 8g); if it crashed, DATALOADER.NUM_WORKERS 0 shows where; {_GO_ON}",
    ),
)


class WorkerError(UserError, RuntimeError):
    """Data workers that cannot go on; says why, and what to do."""


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Block SIGTERM and Ctrl-C in this thread, and so in processes that it starts, until they decide about them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_signals_to_parent() -> None:
    """In a data worker: ignore Ctrl-C, and a SIGTERM that does not come from the process that it works for.

    A terminal sends Ctrl-C to all processes of a run, and a scheduler SIGTERM. The run finishes its iteration, and for
    that it needs its workers. Its own SIGTERM still ends a worker. A worker whose parent has died ends by itself: torch
    looks for that.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # which says who sent it; macOS does not
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with, args=(os.getppid(),), name="signals", daemon=True).start()


def _end_with(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent and os.getppid() == parent:
        pass
    os._exit(0)


def explain(error: BaseException) -> str | None:
    """A sentence for an error that comes from the workers' fate, not from what they compute; None for others."""
    if not isinstance(error, RuntimeError | OSError | EOFError):
        return None
    if isinstance(error, WorkerError):
        return str(error)
    said = str(error).strip() or type(error).__name__
    for pattern, what, help_ in _CAUSES:
        if re.search(pattern, said, re.DOTALL):
            return f"{what}: {help_} ({said.splitlines()[-1]})"
    return None


def _explain_anywhere(error: BaseException) -> str | None:
    """That a data worker died may be heard in the middle of anything; then torch raises a RuntimeError."""
    return explain(error) if isinstance(error, RuntimeError) else None


EXPLANATIONS.append(_explain_anywhere)


def explained(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches; an error of the workers says what to do.

    Raises:
        WorkerError: a worker died, hangs, or has no shared memory.
    """
    iterator = iter(batches)
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            cause = _heard_later() or error if isinstance(error, ConnectionError | EOFError) else error
            if sentence := explain(cause):
                raise WorkerError(sentence) from error
            raise
        yield batch


def _heard_later() -> RuntimeError | None:
    """A worker that dies while it hands over a batch is missed first, and only then does torch say how it died."""
    try:
        time.sleep(_SECONDS_TO_HEAR)
    except RuntimeError as error:
        return error
    return None
