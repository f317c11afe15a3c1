"""Starts one process per GPU (or several on a CPU) and runs a function in each, or joins the processes of torchrun."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import pickle
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing.connection import wait
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from fastreid.config import ConfigError, resolve_device
from fastreid.engine.stopping import Interrupted
from fastreid.utils import comm
from fastreid.utils.console import make_writable
from fastreid.utils.errors import UserError, first_line_of, log_destructor_errors, sentence_of

logger = logging.getLogger(__name__)

# How long a process waits for the others before it stops with an error.
TIMEOUT_MINUTES = 30.0
_MOST_MINUTES = 1_000_000  # timedelta and torch count in nanoseconds
# What gloo and nccl say of a process that waits too long. Mostly nccl ends it by SIGABRT instead.
_HANGING = re.compile(r"Timed out waiting|Watchdog caught collective operation timeout|NCCL.*[Tt]ime(?:d )?out")
# Exit status of a process that was stopped by a signal and has saved the run.
STOPPED = 75


class LaunchError(UserError, ValueError):
    """An impossible number of processes or machines, or a process that was killed."""


class NoAnswerError(UserError, RuntimeError):
    """Another process of the run did not respond in time."""


class RankError(UserError, RuntimeError):
    """An error of the user or the machine in one of several processes, as one sentence."""


def launch(
    main: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    args: tuple[Any, ...] = (),
    *,
    device: str | torch.device = "auto",
    timeout_minutes: float = TIMEOUT_MINUTES,
) -> Any:
    """Run ``main(*args)`` in ``num_gpus_per_machine`` processes on each of ``num_machines``.

    A single process is a plain call. Otherwise each process joins a process group, and an error in one process stops
    the others. A process that torchrun started joins its group. SIGTERM and Ctrl-C are forwarded to the processes,
    which save the run and end.

    Args:
        main: the function.
        num_gpus_per_machine: number of processes on each machine.
        num_machines: number of machines.
        machine_rank: number of this machine, from 0.
        dist_url: address of the first process; "auto": a free local port.
        args: arguments of the function.
        device: nccl is used for CUDA, gloo for "cpu"; "auto": CUDA if there is any.
        timeout_minutes: a process that waits longer than this for another stops with an error.

    Returns:
        The value of the function in a single process or under torchrun, otherwise None.

    Raises:
        ConfigError: several processes, and a device with a number, which only one of them could use.
        Interrupted: the processes were stopped by a signal.
        LaunchError: more processes than GPUs, an impossible rank, "auto" for several machines, a number of processes
            together with torchrun, or a process that was killed.
        RankError: an error of the user or the machine in a process, or another one hangs.
        torch.multiprocessing.ProcessRaisedException: any other error in a process, with its traceback.
    """
    device = resolve_device(device) if str(device) == "auto" else str(device)
    args = tuple(args)
    if not 0 < timeout_minutes <= _MOST_MINUTES:
        raise LaunchError(f"--timeout must be above 0 and at most {_MOST_MINUTES:,} minutes, got {timeout_minutes:g}")
    several = int(os.environ.get("WORLD_SIZE", 1)) if under_torchrun() else num_gpus_per_machine * num_machines
    if several > 1 and device.startswith("cuda:"):
        raise ConfigError(
            f"MODEL.DEVICE is {device}, but each of {several} processes has a GPU of its own: set MODEL.DEVICE to "
            "cuda, and choose the GPUs by CUDA_VISIBLE_DEVICES"
        )
    if under_torchrun():
        return _join_torchrun(main, num_gpus_per_machine * num_machines, device, timeout_minutes, args)
    _check(num_gpus_per_machine, num_machines, machine_rank, dist_url, device)
    world_size = num_gpus_per_machine * num_machines
    if world_size == 1:
        return main(*args)
    if dist_url == "auto":
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    group = (world_size, num_gpus_per_machine, machine_rank, dist_url, device, timeout_minutes)
    _spawn(main, num_gpus_per_machine, group, args, timeout_minutes)
    return None


def _spawn(
    main: Callable[..., Any], num_processes: int, group: tuple[Any, ...], args: tuple[Any, ...], timeout_minutes: float
) -> None:
    """Run the processes of this machine to their end; `group` is passed to `_worker` between `main` and `args`."""
    try:
        started = mp.spawn(_worker, nprocs=num_processes, args=(main, *group, args), join=False)
        _wait_for_all(started, timeout_minutes)
    except mp.ProcessExitedException as error:
        raise LaunchError(
            f"{error}, and the others were stopped. {_cause_of(error, timeout_minutes)}. Continue from the last "
            "checkpoint with --resume"
        ) from error
    except mp.ProcessRaisedException as error:
        # The error of a process that waited may arrive before that of the process that failed first.
        for text in (str(error), *_reports(started)):
            if sentence := _sentence_in(text):
                raise RankError(sentence) from error
        raise


def _cause_of(error: mp.ProcessExitedException, timeout_minutes: float) -> str:
    """What probably ended a process, and what to do."""
    if error.signal_name == "SIGABRT":  # nccl's watchdog ends a process that waits too long
        return (
            f"On GPUs this is how a process ends that waited {timeout_minutes:g} minutes (--timeout) for another one, "
            "which hangs or is far slower: see what the processes logged last; use a longer --timeout if one of them "
            "is only slow"
        )
    return "If it was killed by SIGKILL, the memory was full: lower DATALOADER.NUM_WORKERS or SOLVER.IMS_PER_BATCH"


class _SignalForwarder:
    """Forwards SIGTERM and Ctrl-C to the processes of the run, which save it before they end.

    Otherwise the launcher would end first and kill them.

    Args:
        started: the processes.

    Attributes:
        has_signal: whether a signal was forwarded.
    """

    def __init__(self, started: mp.ProcessContext) -> None:
        self._started, self.has_signal = started, False

    def __enter__(self) -> _SignalForwarder:
        is_main = threading.current_thread() is threading.main_thread()  # Python allows handlers there only
        numbers = (signal.SIGTERM, signal.SIGINT) if is_main else ()
        self._before = {number: signal.signal(number, self._pass_on) for number in numbers}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _pass_on(self, number: int, frame: Any) -> None:
        self.has_signal = True
        for process in self._started.processes:
            if process.is_alive():
                os.kill(process.pid, number)


def _reports(started: mp.ProcessContext) -> Iterator[str]:
    """Tracebacks of the processes of the run."""
    for name in started.error_files:
        with contextlib.suppress(OSError, EOFError, pickle.UnpicklingError), open(name, "rb") as file:
            yield str(pickle.load(file))  # written by torch in a process of this run


def _sentence_in(traceback: str) -> str | None:
    """The message of the `RankError` at the end of a traceback; None if it ends with another error."""
    _, mark, sentence = traceback.strip().rpartition(f"\n{RankError.__module__}.{RankError.__name__}: ")
    return sentence if mark else None


def _wait_for_all(started: mp.ProcessContext, timeout_minutes: float) -> None:
    """Wait until all processes have ended; kill those that hang after others have finished."""
    deadline = None
    with _SignalForwarder(started) as requests:
        while running := [process for process in started.processes if process.is_alive()]:
            codes = [process.exitcode for process in started.processes]
            if any(code not in (None, 0, STOPPED) for code in codes):
                break
            if deadline is None and len(running) < len(codes):
                deadline = time.monotonic() + 60 * timeout_minutes
            if deadline is not None and time.monotonic() > deadline:
                _give_up(started, timeout_minutes)
            wait([process.sentinel for process in running], timeout=1)
        if STOPPED in [process.exitcode for process in started.processes]:
            raise Interrupted(1)  # the main process has printed how to continue
        try:
            while not started.join():
                pass
        except mp.ProcessExitedException as error:
            if requests.has_signal:
                raise Interrupted("stopped by a signal before the training began, or at its very end") from error
            raise


def _give_up(started: mp.ProcessContext, timeout_minutes: float) -> None:
    hanging = [number for number, process in enumerate(started.processes) if process.is_alive()]
    for number in hanging:
        started.processes[number].kill()
    raise LaunchError(
        f"waited {timeout_minutes:g} minutes (--timeout) for process {', '.join(map(str, hanging))} of "
        f"{len(started.processes)}, which hangs at the end of its work, and killed it. Other processes had "
        "finished: --resume writes the missing results"
    )


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ and "RANK" in os.environ


def _join_torchrun(
    main: Callable[..., Any], asked: int, device: str, timeout_minutes: float, args: tuple[Any, ...]
) -> Any:
    if asked != 1:
        raise LaunchError(
            "the processes were started by torchrun: give it their number (--nproc-per-node, --nnodes), and leave out "
            "--num-gpus and --num-machines"
        )
    there = torch.cuda.device_count()
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if device.startswith("cuda") and local_size > max(there, 1):
        raise LaunchError(
            f"torchrun --nproc-per-node {local_size} but this machine shows {there} CUDA devices; lower it, or "
            "check CUDA_VISIBLE_DEVICES"
        )
    return _in_group(main, "env://", None, None, local_rank, local_size, device, timeout_minutes, args)


def _check(num_gpus: int, num_machines: int, machine_rank: int, dist_url: str, device: str) -> None:
    if num_gpus < 1 or num_machines < 1:
        raise LaunchError(f"--num-gpus {num_gpus} and --num-machines {num_machines} must be at least 1")
    if not 0 <= machine_rank < num_machines:
        raise LaunchError(f"--machine-rank {machine_rank} must be in 0..{num_machines - 1} (--num-machines)")
    if dist_url == "auto" and num_machines > 1:
        raise LaunchError("several machines need --dist-url tcp://ADDRESS:PORT of the first one, not auto")
    there = torch.cuda.device_count()
    if device.startswith("cuda") and num_gpus > max(there, 1):
        raise LaunchError(
            f"--num-gpus {num_gpus} but this machine shows {there} CUDA devices; lower it, or "
            "check CUDA_VISIBLE_DEVICES"
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _worker(
    local_rank: int,
    main: Callable[..., Any],
    world_size: int,
    num_per_machine: int,
    machine_rank: int,
    dist_url: str,
    device: str,
    timeout_minutes: float,
    args: tuple[Any, ...],
) -> None:
    os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"] = str(local_rank), str(num_per_machine)
    rank = machine_rank * num_per_machine + local_rank
    make_writable()
    try:
        _in_group(main, dist_url, world_size, rank, local_rank, num_per_machine, device, timeout_minutes, args)
    except Interrupted as stopped:
        if rank == 0:
            print(stopped, file=sys.stderr, flush=True)
        sys.exit(STOPPED)
    except KeyboardInterrupt:
        sys.exit(130)  # torch would call it a success
    except Exception as error:
        if (sentence := sentence_of(error)) is None:
            raise
        logger.debug("stopped by", exc_info=True)
        log_destructor_errors()
        raise RankError(sentence) from error  # the launcher gets it as text only


def _in_group(
    main: Callable[..., Any],
    dist_url: str,
    world_size: int | None,
    rank: int | None,
    local_rank: int,
    num_per_machine: int,
    device: str,
    timeout_minutes: float,
    args: tuple[Any, ...],
) -> Any:
    on_cuda = device.startswith("cuda")
    if on_cuda:
        torch.cuda.set_device(local_rank)  # plain "cuda" is the device of this process from now on
    # Processes share the cores, which rank the gallery on GPU machines too; torchrun would leave one to each.
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // num_per_machine))
    try:
        dist.init_process_group(
            "nccl" if on_cuda else "gloo",
            init_method=dist_url,
            world_size=-1 if world_size is None else world_size,
            rank=-1 if rank is None else rank,
            timeout=timedelta(minutes=timeout_minutes),
            device_id=torch.device("cuda", local_rank) if on_cuda else None,
        )
    except (RuntimeError, ValueError) as error:
        raise NoAnswerError(
            f"the processes of the run did not find each other at {dist_url}: {first_line_of(error)}. --dist-url "
            "is tcp://HOST:PORT, a free port of the machine of rank 0 that all machines reach; start all of them "
            f"within {timeout_minutes:g} minutes (--timeout)"
        ) from error
    comm.use_timeout(timedelta(minutes=timeout_minutes))
    try:
        value = main(*args)
    except RuntimeError as error:
        if not _HANGING.search(str(error)):
            raise
        raise NoAnswerError(
            f"process {dist.get_rank()} of {dist.get_world_size()} waited {timeout_minutes:g} minutes (--timeout) for "
            "another one, which hangs or is far slower: see what the others logged last, then continue with --resume; "
            "use a longer --timeout if one of them is only slow"
        ) from error
    # Not after an error: closing the group would make the others fail first, with another message.
    dist.destroy_process_group()
    # Trainer and hooks refer to each other and keep the group alive. If its threads outlived the interpreter, the
    # process would be aborted.
    gc.collect()
    return value
