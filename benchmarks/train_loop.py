#!/usr/bin/env python
"""Times a training step of the trainer, with data and hooks, against the bare step on prepared tensors.

    python benchmarks/train_loop.py [--models stage1 stage2 vit] [--rounds 60] [--workers 2] [--threads 2]

The bare step is forward, backward and optimiser of the very same model, on batches that were loaded before: no data, no
hooks, no clipping, no check of losses or gradients. Within one run of the trainer, these take turns: its step on a
loaded batch, a bare step, its step on a batch that was ready, a bare step. Drawing a batch sets a worker to load
another one, so that each step on a loaded batch is accompanied by the loading of one, and the others by none (as long
as a step takes longer than the loading). Checkpoints and evaluations are not timed.

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

from fastreid.config import CfgNode, get_cfg
from fastreid.engine import DefaultTrainer, HookBase
from fastreid.rendering import render_benchmark

import torch
from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
# Name -> config file and changed keys.
MODELS = {
    "stage1": ("configs/quickstart/stage1.yml", []),
    "stage2": ("configs/quickstart/stage2_unet.yml", []),
    "vit": ("configs/CARGO/base_stage1.yml", ["MODEL.BACKBONE.PRETRAIN", False, "SOLVER.IMS_PER_BATCH", 32]),
}


class Enough(Exception):
    """All rounds were timed."""


class EverySecondReady:
    """A loader whose every second batch is one of a few that were loaded before.

    Attributes: ready, those few; waited, how long each of the others was waited for, in seconds.
    """

    def __init__(self, loader: Any) -> None:
        self._loader, self.ready, self.waited = loader, [], []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        batches = iter(self._loader)
        self.ready += islice(batches, 4)
        for ready in cycle(self.ready):
            start = time.perf_counter()
            batch = next(batches)
            self.waited.append(time.perf_counter() - start)
            yield batch
            yield dict(ready)


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


class TakingTurns(HookBase):
    """Takes a bare step after each step of the trainer; it must be the last hook, so that all others are timed.

    Attributes: loaded, ready: (the trainer's step, the bare one after it) of each round, by where its batch came from.
    """

    def __init__(self, num_rounds: int, warmup: int = 3) -> None:
        self.num_rounds, self._warmup = num_rounds, warmup
        self.loaded: list[tuple[Seconds, Seconds]] = []
        self.ready: list[tuple[Seconds, Seconds]] = []

    def between_steps(self) -> None:
        """Record the time of a step, and take a bare one."""
        now, done = Seconds.now(), self.trainer.iter
        if done > 2 * self._warmup:
            ours, bare = now - self._start, self._bare_step()
            (self.ready if done % 2 == 0 else self.loaded).append((ours, bare))
            if len(self.ready) == self.num_rounds:
                raise Enough
        self._start = Seconds.now()

    def _bare_step(self) -> Seconds:
        trainer, start = self.trainer, Seconds.now()
        batch = trainer.data_loader.ready[trainer.iter % len(trainer.data_loader.ready)]
        with trainer.autocast():
            loss = sum(trainer.model(batch).values())
        loss.backward()
        trainer.optimizer.step()
        trainer.optimizer.zero_grad(set_to_none=True)
        return Seconds.now() - start


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


def measure(name: str, root: Path, num_rounds: int, keys: list[Any]) -> list[str]:
    """Return the table row of a model."""
    with tempfile.TemporaryDirectory() as output:
        trainer = DefaultTrainer(config(name, root, output, keys))
        loading = loading_seconds(trainer.data_loader)
        turns = TakingTurns(num_rounds)
        trainer.register_hooks([turns])
        trainer.data_loader = EverySecondReady(trainer.data_loader)
        with contextlib.suppress(Enough):
            trainer.train()
    bare = [seconds for _, seconds in turns.loaded + turns.ready]
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
    ]


def prepare(root: Path, models: list[str]) -> None:
    """Create the rendered people and, for stage 2, the random UNet."""
    if not (root / "CARGO").is_dir():
        render_benchmark(root, "CARGO", train_ids=100, test_ids=10, images_per_id=10, seed=0)
    if "stage2" in models and not Path("pretrained/random-tiny").is_dir():
        subprocess.run([sys.executable, str(ROOT / "tools/make_assets.py"), "--size", "tiny"], check=True)


def main() -> None:
    """Parse the command line, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["stage1", "stage2"])
    parser.add_argument("--root", type=Path, default=Path("datasets/quickstart"), help="folder of the rendered CARGO")
    parser.add_argument("--rounds", type=int, default=60, help="each of a step on loaded and one on ready tensors")
    parser.add_argument("--workers", type=int, default=2, help="data workers")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the training process")
    parser.add_argument("keys", nargs="*", metavar="KEY VALUE", help="config keys")
    args = parser.parse_args()
    logging.getLogger("fastreid").setLevel(logging.ERROR)
    torch.set_num_threads(args.threads)
    prepare(args.root, args.models)
    print(f"{torch.get_num_threads()} threads and {args.workers} data workers, torch {torch.__version__}")
    keys = ["DATALOADER.NUM_WORKERS", args.workers, *args.keys]
    rows = [measure(name, args.root, args.rounds, keys) for name in args.models]
    headers = [
        *("model", "images", "bare, s", "trainer, s", "ratio (95 %)", "without loading", "of CPU time"),
        *("data wait, ms", "loading, CPU ms", "loading / bare CPU"),
    ]
    print(tabulate(rows, headers, disable_numparse=True))


if __name__ == "__main__":
    main()
