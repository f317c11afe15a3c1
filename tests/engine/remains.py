"""What a run leaves in its folder, so that two runs can be compared file by file; and runs that are killed."""

import functools
import json
import multiprocessing.util
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

# What depends on the clock, not on the run.
TIMES = ("time", "data_time", "eta_seconds")


def remains_of(folder: Path) -> dict[str, Any]:
    """{file name: content}, without times and dates; of checkpoints the bytes."""
    compared = (path for path in sorted(folder.iterdir()) if "tfevents" not in path.name and path.name != "log.txt")
    found = {path.name: _content(path) for path in compared if path.is_file()}
    return found | {"TensorBoard": _scalars(folder)}


def _content(path: Path) -> Any:
    if path.suffix == ".pth":
        return path.read_bytes()
    text = path.read_text()
    if path.name == "metrics.json":
        records = [json.loads(line) for line in text.splitlines()]
        return [{name: value for name, value in record.items() if name not in TIMES} for record in records]
    if path.name == "manifest.json":
        return {name: value for name, value in json.loads(text).items() if name not in ("sessions", "config")}
    return text


def _scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    names = [name for name in events.Tags()["scalars"] if name not in TIMES]
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in sorted(names)}


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Names of files that are not in both, or differ."""
    return [name for name in sorted(found.keys() | expected.keys()) if found.get(name) != expected.get(name)]


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
            torch.set_num_threads(1)
            do()
            status = 0
        except SystemExit as error:
            print(error, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            multiprocessing.util._exit_function()  # as at the end of any process: its children are ended
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
