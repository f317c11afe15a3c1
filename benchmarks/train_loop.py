#!/usr/bin/env python
"""Times a training step of the trainer, with data and hooks, against the bare step on prepared tensors.

    python benchmarks/train_loop.py [--models stage1 stage2 vit r50 sd15] [--rounds 60] [--workers 2] [--threads 2]
        [--device cuda] [--block 20]

The bare step is forward, backward and optimiser of the very same model, on batches that were loaded before: no data, no
hooks, no clipping, no check of losses or gradients. Within one run of the trainer, these take turns: its step on a
loaded batch, a bare step, its step on a batch that was ready, a bare step. Drawing a batch sets a worker to load
another one, so that each step on a loaded batch is accompanied by the loading of one, and the others by none (as long
as a step takes longer than the loading). Checkpoints and evaluations are not timed.

A GPU is synchronised only where the clock is read. With --block 20 they take turns after every 20 steps instead, so
that Python can run ahead of the GPU as in a real training.

Ratios are of a step to the bare step after it: the median of all rounds, and between which two of them the median of
endless rounds lies with 95 % certainty. What the workers take for a batch is measured before, in CPU seconds: on a
machine without cores to spare it comes on top, divided by the cores. Images are a rendered CARGO (made in --root if it
is not there), weights random.
"""

import argparse
import contextlib
import logging
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

from fastreid.config import CfgNode, get_cfg, resolve_device
from fastreid.engine import DefaultTrainer, HookBase
from fastreid.engine.setup import set_backends
from fastreid.rendering import render_benchmark
from fastreid.utils.errors import reported_as

import torch
from tabulate import tabulate

from figures import add_device, describe, figure, peak_gib, restart_peak

ROOT = Path(__file__).resolve().parents[1]
# Random weights of tools/make_assets.py --size sd15.
SD15 = (
    *("MODEL.SDMODEL.UNET_CONFIG.PRETRAINED_PATH", "pretrained/random-sd15/unet"),
    *("MODEL.SDMODEL.SCHEDULER_CONFIG.PRETRAINED_PATH", "pretrained/random-sd15/scheduler"),
)
# Name -> config file and changed keys.
MODELS = {
    "stage1": ("configs/quickstart/stage1.yml", []),
    "stage2": ("configs/quickstart/stage2_unet.yml", []),
    "vit": ("configs/CARGO/base_stage1.yml", ["MODEL.BACKBONE.PRETRAIN", False, "SOLVER.IMS_PER_BATCH", 32]),
    "r50": (
        "configs/Market1501/bagtricks_R50.yml",
        ["MODEL.BACKBONE.PRETRAIN", False, "DATASETS.NAMES", ("CARGO",), "DATASETS.TESTS", ("CARGO",)],
    ),
    "sd15": ("configs/CARGO/base_stage2_step5.yml", ["MODEL.BACKBONE.PRETRAIN", False, *SD15]),
}


class Enough(Exception):
    """All rounds were timed."""


class EverySecondReady:
    """A loader whose every second block of batches is of a few that were loaded before.

    Attributes: ready, those few; waited, how long each of the others was waited for, in seconds.
    """

    def __init__(self, loader: Any, block: int) -> None:
        self._loader, self._block, self.ready, self.waited = loader, block, [], []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        batches = iter(self._loader)
        self.ready += islice(batches, 4)
        ready = cycle(self.ready)
        while True:
            for _ in range(self._block):
                start = time.perf_counter()
                batch = next(batches)
                self.waited.append(time.perf_counter() - start)
                yield batch
            for _ in range(self._block):
                yield dict(next(ready))


class Seconds(NamedTuple):
    """Seconds of wall time, and of CPU time in all threads of this process."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> "Seconds":
        """Return the times when all work so far is done."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return cls(time.perf_counter(), time.process_time())

    def __sub__(self, other: "Seconds") -> "Seconds":
        return Seconds(self.wall - other.wall, self.cpu - other.cpu)

    def __truediv__(self, count: int) -> "Seconds":
        return Seconds(self.wall / count, self.cpu / count)


class TakingTurns(HookBase):
    """Takes a bare step after each step of the trainer; it must be the last hook, so that all others are timed.

    With a block of several steps, a block of bare ones follows each block of the trainer; times are of a step.

    Attributes: loaded, ready: (the trainer's step, the bare one after it) of each round, by where its batch came from.
    """

    def __init__(self, num_rounds: int, block: int = 1) -> None:
        self.num_rounds, self._block, self._warmup = num_rounds, block, 3 if block == 1 else 1
        self.loaded: list[tuple[Seconds, Seconds]] = []
        self.ready: list[tuple[Seconds, Seconds]] = []

    def between_steps(self) -> None:
        """At the end of a block, record its time, and take a block of bare steps."""
        blocks, rest = divmod(self.trainer.iter, self._block)
        if rest:
            return
        now = Seconds.now()
        if blocks > 2 * self._warmup:
            ours, bare = (now - self._start) / self._block, self._bare_steps()
            (self.ready if blocks % 2 == 0 else self.loaded).append((ours, bare))
            if len(self.ready) == self.num_rounds:
                raise Enough
        self._start = Seconds.now()

    def _bare_steps(self) -> Seconds:
        start = Seconds.now()
        for number in range(self._block):
            self._bare_step(self.trainer.iter + number)
        return (Seconds.now() - start) / self._block

    def _bare_step(self, number: int) -> None:
        trainer = self.trainer
        batch = trainer.data_loader.ready[number % len(trainer.data_loader.ready)]
        with trainer.autocast():
            loss = sum(trainer.model(batch).values())
        loss.backward()
        trainer.optimizer.step()
        trainer.optimizer.zero_grad(set_to_none=True)


def ratio(rounds: Sequence[tuple[Seconds, Seconds]], kind: int = 0) -> str:
    """Return the median of the ratios of all rounds, and its 95 % interval by order statistics."""
    ratios = sorted(ours[kind] / bare[kind] for ours, bare in rounds)
    reach = 0.98 * math.sqrt(len(ratios))
    low = max(math.floor(len(ratios) / 2 - reach), 0)
    return f"{statistics.median(ratios):.3f} ({ratios[low]:.3f} to {ratios[-1 - low]:.3f})"


def loading_seconds(loader: Any, rounds: int = 8) -> float:
    """Return the CPU seconds of a data worker for a batch, without its transfer: the best of a few."""
    best, draws = float("inf"), iter(loader.sampler)
    for _ in range(rounds):
        start = time.process_time()
        loader.collate_fn(loader.dataset.__getitems__(list(islice(draws, loader.batch_size))))
        best = min(best, time.process_time() - start)
    return best


def config(name: str, root: Path, output: str, keys: list[Any]) -> CfgNode:
    """Return the config of a model for a number of steps."""
    file, changes = MODELS[name]
    cfg = get_cfg()
    cfg.merge_from_file(ROOT / file)
    cfg.merge_from_list([*changes, "DATASETS.ROOT", str(root), "OUTPUT_DIR", output, "MODEL.WEIGHTS", ""])
    cfg.merge_from_list(["SOLVER.MAX_EPOCH", 10**6, "SOLVER.CHECKPOINT_PERIOD", 0, "TEST.EVAL_PERIOD", 0, *keys])
    return cfg


def measure(name: str, root: Path, num_rounds: int, block: int, keys: list[Any]) -> list[str]:
    """Return the table row of a model, and print its figures."""
    with tempfile.TemporaryDirectory() as output:
        cfg = config(name, root, output, keys)
        device = torch.device(resolve_device(cfg.MODEL.DEVICE))
        restart_peak(device)
        set_backends(cfg)  # as train_net.py does
        trainer = DefaultTrainer(cfg)
        loading = loading_seconds(trainer.data_loader)
        turns = TakingTurns(num_rounds, block)
        trainer.register_hooks([turns])
        trainer.data_loader = EverySecondReady(trainer.data_loader, block)
        with contextlib.suppress(Enough):
            trainer.train()
    bare = [seconds for _, seconds in turns.loaded + turns.ready]
    ratios = [ours.wall / seconds.wall for ours, seconds in turns.loaded]
    figure(f"training, {name}: trainer / bare loop", statistics.median(ratios), goal="1.05 or less")
    figure(f"training, {name}: bare step", 1e3 * statistics.median(seconds.wall for seconds in bare), " ms")
    return [
        name,
        str(trainer.cfg.SOLVER.IMS_PER_BATCH),
        f"{statistics.median(seconds.wall for seconds in bare):.3f}",
        f"{statistics.median(seconds.wall for seconds, _ in turns.loaded):.3f}",
        ratio(turns.loaded),
        ratio(turns.ready),
        ratio(turns.loaded, kind=1),
        f"{1000 * statistics.median(trainer.data_loader.waited):.1f}",
        f"{1000 * loading:.1f}",
        f"{loading / statistics.median(seconds.cpu for seconds in bare):.3f}",
        f"{peak_gib(device):.2f}",
    ]


def prepare(root: Path, models: list[str]) -> None:
    """Create the rendered people and, for stage 2, the random UNet."""
    if not (root / "CARGO").is_dir():
        render_benchmark(root, "CARGO", train_ids=100, test_ids=10, images_per_id=10, seed=0)
    if "stage2" in models and not Path("pretrained/random-tiny").is_dir():
        subprocess.run([sys.executable, str(ROOT / "tools/make_assets.py"), "--size", "tiny"], check=True)
    if "sd15" in models and not Path("pretrained/random-sd15").is_dir():
        subprocess.run([sys.executable, str(ROOT / "tools/make_assets.py"), "--size", "sd15"], check=True)


def main() -> None:
    """Parse the command line, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["stage1", "stage2"])
    parser.add_argument("--root", type=Path, default=Path("datasets/quickstart"), help="folder of the rendered CARGO")
    parser.add_argument("--rounds", type=int, default=60, help="each of a step on loaded and one on ready tensors")
    parser.add_argument("--workers", type=int, default=2, help="data workers")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the training process")
    parser.add_argument("--block", type=int, default=1, help="steps between two synchronisations of a GPU")
    add_device(parser)
    parser.add_argument("keys", nargs="*", metavar="KEY VALUE", help="config keys")
    args = parser.parse_args()
    logging.getLogger("fastreid").setLevel(logging.ERROR)
    torch.set_num_threads(args.threads)
    prepare(args.root, args.models)
    print(f"{describe(args.device)}, {args.workers} data workers, blocks of {args.block}")
    keys = ["MODEL.DEVICE", str(args.device), "DATALOADER.NUM_WORKERS", args.workers, *args.keys]
    rows = [measure(name, args.root, args.rounds, args.block, keys) for name in args.models]
    headers = [
        *("model", "images", "bare, s", "trainer, s", "ratio (95 %)", "without loading", "of CPU time"),
        *("data wait, ms", "loading, CPU ms", "loading / bare CPU", "GiB"),
    ]
    print(tabulate(rows, headers, disable_numparse=True))


if __name__ == "__main__":
    with reported_as("train_loop"):
        main()
