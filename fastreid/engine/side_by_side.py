"""Runs several programs at once, each in a process of its own with a share of the cores and GPUs."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import torch

from fastreid.utils.cores import usable_cores
from fastreid.utils.errors import Cancelled

_SECONDS_BETWEEN_LOOKS = 0.1


class SideBySide:
    """Processes of which several run at once.

    It is a context manager. In the block, SIGINT and SIGTERM are passed on to all processes as SIGTERM, and `wait`
    raises an error when they have ended. A block that ends by an exception stops them, and waits for them.

    Args:
        places: how many processes run at once. If there are several, each has a share of the cores as OMP_NUM_THREADS,
            unless this is set, and a share of the GPUs as CUDA_VISIBLE_DEVICES.
        gpus: how many GPUs each process uses, if there are any.
    """

    def __init__(self, places: int, *, gpus: int = 1) -> None:
        self._places, self._gpus = places, gpus
        self._running: dict[int, tuple[Any, subprocess.Popen[bytes]]] = {}
        self._received: list[int] = []
        self._passed_on = 0
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> SideBySide:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, lambda number, _: self._received.append(number))
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        try:
            if kind is not None:
                self._stop_all()
            for _, process in self._running.values():
                process.wait()
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def __len__(self) -> int:
        return len(self._running)

    @property
    def is_full(self) -> bool:
        """Whether no other process should be started now."""
        return len(self) >= self._places or bool(self._received)

    def start(self, name: Any, command: Sequence[str], console: Path) -> None:
        """Start a program.

        Args:
            name: what `wait` calls it.
            command: the program and its arguments.
            console: the file to which its output is appended.
        """
        place = next(place for place in range(self._places) if place not in self._running)
        with console.open("ab") as output:
            self._running[place] = name, start(command, output, share_of_machine(place, self._places, self._gpus))

    def wait(self) -> tuple[Any, int]:
        """Wait until one of the processes has ended.

        Returns:
            Its name and its exit status.

        Raises:
            Cancelled: there was a signal, and all processes have ended.
        """
        while True:
            for place, (name, process) in self._running.items():
                status = process.poll()
                if status is not None and not self._received:
                    del self._running[place]
                    return name, status
            # Here rather than in the signal handler, so that a process that is just being started is not forgotten.
            while self._passed_on < len(self._received):
                self._passed_on += 1
                self._stop_all()
            if self._received and all(process.poll() is not None for _, process in self._running.values()):
                raise Cancelled(128 + self._received[0])
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    def _stop_all(self) -> None:
        for _, process in self._running.values():
            process.send_signal(signal.SIGTERM)


def start(command: Sequence[str], output: IO[bytes], variables: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a program in a process of its own.

    Args:
        command: the program and its arguments.
        output: the file that gets what it prints.
        variables: environment variables that it gets besides those of this process.
    """
    return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | variables)


def share_of_machine(place: int, places: int, gpus: int) -> dict[str, str]:
    """Return the environment variables that give a process its share of the cores and GPUs.

    GPUs are shared by several processes if there are too few of them.

    Args:
        place: number of the process, from 0.
        places: how many processes run at once.
        gpus: how many GPUs each of them uses.
    """
    if places == 1:
        return {}
    variables = {}
    if "OMP_NUM_THREADS" not in os.environ:
        variables["OMP_NUM_THREADS"] = str(max(1, usable_cores() // places))
    count = torch.cuda.device_count()
    if gpus <= count:
        names = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(names[(place * gpus + index) % count] for index in range(gpus))
    return variables
