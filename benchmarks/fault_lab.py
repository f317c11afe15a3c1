"""Fault injection: data, assets and an undisturbed run of each stage, and functions that disturb a run."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

# Imported once for all forks.
import fastreid.engine  # noqa: F401
from fastreid.methods.models import SDReIDStage1, SDReIDStage2
from fastreid.utils import writers

import diffusers.models.unets.unet_2d_condition  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import torch.multiprocessing as mp
import torch.utils.tensorboard  # noqa: F401

from remains import differences, remains_of

ROOT = Path(__file__).resolve().parents[1]
# Stage -> its config. The small generator of configs/quickstart/stage2.yml reads no image while it trains: faults of
# images and losses would not reach it.
CONFIGS = {"stage1": "stage1", "stage2": "stage2_unet"}
STAGES = tuple(CONFIGS)


class Lab:
    """A folder with data, assets and an undisturbed run of each stage."""

    def __init__(self, folder: Path, workers: int, keys: list[str]) -> None:
        self.folder, self.workers, self.keys = folder, workers, keys
        # Share of the measured seconds that runs take now: the machine may have had more work when they were measured.
        self.pace = 1.0
        few = ["--train-ids", "8", "--test-ids", "4", "--images-per-id", "8", "--workers", "1"]
        self.tool("tools/render_benchmark.py", "--root", "data", *few)
        self.tool("tools/make_assets.py", "--size", "tiny", "--output", "pretrained/random-tiny")
        self.seconds, self.events, self._remains = {}, {}, {}
        for stage in STAGES:
            start, count = time.perf_counter(), folder / "events"
            self.train(stage, f"whole/{stage}", inject=lambda: at_event(None, count))  # noqa: B023
            self.seconds[stage] = time.perf_counter() - start
            if not (folder / f"whole/{stage}/model_final.pth").exists():
                raise RuntimeError(f"{stage} does not train: see {folder}/log.txt")
            self.events[stage] = count.stat().st_size
            count.unlink()

    def tool(
        self,
        name: str,
        *words: str,
        during: Callable[[int], None] | None = None,
        inject: Callable[[], None] | None = None,
    ) -> int:
        """Run a tool in a fork of this process, after `inject`; return its exit status, negative for a signal."""
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            self._be(name, words, inject)
        if during:
            during(child)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _be(self, name: str, words: Sequence[str], inject: Callable[[], None] | None) -> None:
        os.setsid()
        os.chdir(self.folder)
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = [name, *words]
        mp.spawn = functools.partial(mp.start_processes, start_method="fork")  # several processes of a run, too
        status = 1
        try:
            if inject:
                inject()
            runpy.run_path(str(ROOT / name), run_name="__main__")
            status = 0
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
            print(error)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}")
        finally:
            sys.stdout.flush()
            os._exit(status or 0)

    def train(self, stage: str, output: str, *keys: str, options: Sequence[str] = (), **broken: Any) -> int:
        """Train a stage; `broken` are the arguments `during` and `inject` of `tool`."""
        words = ["--config-file", str(ROOT / f"configs/quickstart/{CONFIGS[stage]}.yml"), "--resume", *options]
        words += ["MODEL.DEVICE", "cpu", "DATASETS.ROOT", "data", "OUTPUT_DIR", output]
        words += ["SOLVER.MAX_EPOCH", "4", "SOLVER.IMS_PER_BATCH", "16", "SOLVER.CHECKPOINT_PERIOD", "1"]
        words += ["TEST.EVAL_PERIOD", "2", "DATALOADER.NUM_WORKERS", str(self.workers)]
        if stage == "stage2":
            words += ["MODEL.WEIGHTS", "whole/stage1/model_final.pth"]
        return self.tool("tools/train_net.py", *words, *keys, *self.keys, **broken)

    def said_since(self, position: int) -> str:
        """Return what all runs printed after a position in the log, in bytes."""
        return self.log.read_bytes()[position:].decode(errors="replace")

    @property
    def log(self) -> Path:
        """The log of all runs."""
        return self.folder / "log.txt"

    def what_differs(
        self, output: str, whole: str, *, extra: Collection[str] = (), ignored: Collection[str] = ()
    ) -> str:
        """Return "" if all files of a run equal those of the undisturbed one, else what differs."""
        if not (self.folder / output / "model_final.pth").exists():
            return "it did not end"
        if whole not in self._remains:
            self._remains[whole] = remains_of(self.folder / whole)
        found = remains_of(self.folder / output)
        names = differences(found, self._remains[whole], extra=extra, ignored=ignored)
        if names:  # for inspection with --folder
            shutil.copytree(self.folder / output, self.folder / f"kept/{len(list(self.folder.glob('kept/*')))}")
        return f"{', '.join(names)} differ" if names else ""


def at_event(number: int | None, count: Path | None = None) -> None:
    """End this process like SIGKILL at its file event `number`, counted from 0.

    An event is that a file is about to be renamed to its final name, or that half of a line of metrics.json is written.
    `count` grows by a byte at each.
    """
    events, me = itertools.count(), os.getpid()

    def watched(do: Callable[..., Any], before: Callable[..., Any] = lambda *args: None) -> Callable[..., Any]:
        def watching(*args: Any) -> Any:
            if os.getpid() == me:
                if next(events) == number:
                    before(*args)
                    os.kill(me, signal.SIGKILL)
                if count:
                    with open(count, "ab") as file:
                        file.write(b".")
            return do(*args)

        return watching

    os.replace = watched(os.replace)
    writers._write_whole = watched(writers._write_whole, lambda file, line: file.write(line[: len(line) // 2]))


def has_ended(child: int) -> bool:
    """Return whether a run has ended; its exit status can still be read."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def kill_after(seconds: float, number: int, *, group: bool = False) -> Callable[[int], None]:
    """Send a signal to a run some time after its start; with `group`, also to its data workers. SIGKILL ends all."""

    def kill(child: int) -> None:
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            if has_ended(child):
                return
            os.killpg(child, number) if group or number == signal.SIGKILL else os.kill(child, number)

    return kill


def kill_a_child(seconds: float, number: int, *, which: int = -1) -> Callable[[int], None]:
    """Send a signal to one process that the run has started, at that time or as soon as there is one."""

    def kill(child: int) -> None:
        time.sleep(seconds)
        children = Path(f"/proc/{child}/task/{child}/children")
        with contextlib.suppress(OSError, ProcessLookupError):
            while not (numbers := children.read_text().split()):
                if has_ended(child):
                    return
                time.sleep(0.05)
            os.kill(int(numbers[which]), number)

    return kill


def loss_is_nan_at(number: int) -> Callable[[], None]:
    """Act in a training pass, counted from 1."""

    def inject() -> None:
        for model in (SDReIDStage1, SDReIDStage2):
            model.forward = _spoilt(model.forward, number)

    return inject


def _spoilt(forward: Callable[..., Any], number: int) -> Callable[..., Any]:
    passes = itertools.count(1)

    def spoilt(self: Any, batch: Any) -> Any:
        result = forward(self, batch)
        if not self.training or next(passes) != number:
            return result
        return {name: loss * float("nan") for name, loss in result.items()}

    return spoilt


def can_mount(folder: Path) -> bool:
    """Whether a tmpfs can be mounted, which requires administrator rights."""
    folder.mkdir(parents=True, exist_ok=True)
    if not _mount(folder, "size=1m"):
        return False
    unmount(folder)
    return True


def mount_small_disk(folder: Path, size: int) -> None:
    """Mount a disk of this size in bytes at `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    if not _mount(folder, f"size={size}"):
        raise RuntimeError(f"no tmpfs can be mounted at {folder}")


def make_room(folder: Path) -> None:
    """Enlarge the disk at `folder` to a gigabyte."""
    _mount(folder, "remount,size=1g")


def unmount(folder: Path) -> None:
    """Unmount the disk at `folder`."""
    subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


def _mount(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def size_of(folder: Path) -> int:
    """Size of all files in a folder, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
