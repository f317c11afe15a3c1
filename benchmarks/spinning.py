#!/usr/bin/env python
"""Times training steps with different limits on spinning threads, on an idle and on a busy machine.

    python benchmarks/spinning.py [--model stage2] [--steps 46] [--rounds 3] [--busy 0 1 2]

Each cell is a process of its own that trains the quickstart's model with two data workers: the median of its steps, and
the CPU seconds that all of them took in the training process (workers not counted). Busy processes are endless loops in
Python. Settings take turns. Of several rounds the median is shown.
"""

import argparse
import itertools
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fastreid.engine import DefaultTrainer, HookBase
from fastreid.utils.errors import reported_as
from fastreid.utils.threads import SPIN_COUNT

import torch
from tabulate import tabulate

from train_loop import config, prepare

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
SETTINGS: Mapping[str, Mapping[str, str]] = {
    "300,000 (GNU's default)": {"GOMP_SPINCOUNT": "300000"},
    **{f"{count:,}": {"GOMP_SPINCOUNT": str(count)} for count in (100_000, 30_000, 10_000, 3000, 1000)},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
}


class Done(Exception):
    """All steps were timed."""


class StepTimes(HookBase):
    """Measures the seconds of each step after the first few; it must be the last hook."""

    def __init__(self, num_steps: int, warmup: int = 4) -> None:
        self.seconds: list[float] = []
        self._left, self._num_steps = warmup, num_steps

    def between_steps(self) -> None:
        """Record the time of a step, and stop after the last one."""
        now = time.perf_counter()
        if self._left:
            self._left -= 1
            self._cpu = time.process_time()
        else:
            self.seconds.append(now - self._last)
        self._last = now
        if len(self.seconds) == self._num_steps:
            self.cpu_seconds = time.process_time() - self._cpu
            raise Done


def train(model: str, root: Path, num_steps: int) -> dict[str, float]:
    """Return the median seconds of a step, those of the slowest, and the CPU seconds of all, in this process."""
    logging.getLogger("fastreid").setLevel(logging.ERROR)
    times = StepTimes(num_steps)
    with tempfile.TemporaryDirectory() as output:
        trainer = DefaultTrainer(config(model, root, output, ["DATALOADER.NUM_WORKERS", 2]))
        trainer.register_hooks([times])
        with suppress(Done):
            trainer.train()
    return {"median": statistics.median(times.seconds), "slowest": max(times.seconds), "cpu": times.cpu_seconds}


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Run endless loops in this number of processes."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(arguments: Sequence[str], setting: Mapping[str, str], num_busy: int) -> dict[str, float]:
    """Measure a process with a setting while `num_busy` others run."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | dict(setting)
    with busy(num_busy):
        done = subprocess.run(
            [sys.executable, __file__, "--child", *arguments],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True,
        )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Parse the command line, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["stage1", "stage2"], default="stage2")
    parser.add_argument("--root", type=Path, default=Path("datasets/quickstart"), help="folder of the rendered CARGO")
    parser.add_argument("--steps", type=int, default=46, help="that are timed in each process")
    parser.add_argument("--rounds", type=int, default=3, help="processes per setting and number of busy ones")
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], help="numbers of busy processes")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(train(args.model, args.root, args.steps)))
        return
    prepare(args.root, [args.model])
    arguments = ["--model", args.model, "--root", str(args.root), "--steps", str(args.steps)]
    found = {}
    for number, num_busy, (name, setting) in itertools.product(range(args.rounds), args.busy, SETTINGS.items()):
        found[name, num_busy, number] = measure(arguments, setting, num_busy)
        print(
            f"round {number + 1}, {num_busy} busy, {name}: {found[name, num_busy, number]}", file=sys.stderr, flush=True
        )
    print(f"{torch.get_num_threads()} threads, 2 data workers, {args.steps} steps; the default is {SPIN_COUNT:,}")
    headers = ["spins", *(f"{n} busy: s a step, slowest, CPU s" for n in args.busy)]
    print(tabulate([[name, *(cell(found, name, n, args.rounds) for n in args.busy)] for name in SETTINGS], headers))


def cell(found: Mapping, name: str, num_busy: int, rounds: int) -> str:
    """Medians over the rounds."""
    of_all = [found[name, num_busy, number] for number in range(rounds)]
    median, slowest, cpu = (statistics.median(one[key] for one in of_all) for key in ("median", "slowest", "cpu"))
    return f"{median:.3f}, {slowest:.2f}, {cpu:.0f}"


if __name__ == "__main__":
    with reported_as("spinning"):
        main()
