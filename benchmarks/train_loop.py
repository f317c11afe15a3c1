#!/usr/bin/env python
"""Times a training step of the trainer, data and hooks and all, against the bare step on tensors that are ready.

    python benchmarks/train_loop.py [--models stage1 stage2 vit] [--blocks 12] [--steps 8] [--workers 2] [--threads 2]

The bare step is forward, backward and optimiser of the very same model, on batches that were loaded before: no data, no
hooks, no clipping, no check of losses or gradients. Blocks of both take turns within one run of the trainer; the first
step of a block is not timed. Data workers go on while bare steps run, until they are as far ahead as they may be; so
each step of the trainer is accompanied by the loading of one batch. Checkpoints and evaluations are not timed.

Ratios are of seconds, and of CPU seconds of the training process, which other programs disturb less. What the workers
take for a batch is measured before, in CPU seconds: on a machine without cores to spare it comes on top, divided by the
cores. Images are a rendered CARGO (made in --root if it is not there), weights random.
"""

import argparse
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tabulate import tabulate

from fastreid.config import CfgNode, get_cfg
from fastreid.data.benchmarks.synthetic import render_benchmark
from fastreid.engine import DefaultTrainer, HookBase

ROOT = Path(__file__).resolve().parents[1]
# Name -> recipe, and what is changed of it.
MODELS = {
    "stage1": ("configs/quickstart/stage1.yml", []),
    "stage2": ("configs/quickstart/stage2.yml", []),
    "vit": ("configs/CARGO/base_stage1.yml", ["MODEL.BACKBONE.PRETRAIN", False, "SOLVER.IMS_PER_BATCH", 32]),
}


class Enough(Exception):
    """All blocks were timed."""


class Waiting:
    """A loader that notes how long each batch was waited for, in seconds."""

    def __init__(self, loader: Any) -> None:
        self._loader, self.seconds = loader, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        batches = iter(self._loader)
        while True:
            start = time.perf_counter()
            batch = next(batches)
            self.seconds.append(time.perf_counter() - start)
            yield batch


class Seconds(NamedTuple):
    """On the clock, of CPU time in all threads of this process, and waiting for data."""

    wall: float
    cpu: float
    waited: float = 0.0

    def __sub__(self, other: "Seconds") -> "Seconds":
        return Seconds(*(ours - theirs for ours, theirs in zip(self, other, strict=True)))


class TakingTurns(HookBase):
    """Blocks of bare steps after blocks of the trainer's; the last of the hooks, so that all others are timed.

    Attributes: blocks, of each the seconds of the trainer's timed steps and of as many bare ones.
    """

    def __init__(self, num_blocks: int, num_steps: int) -> None:
        self.num_blocks, self.num_steps = num_blocks, num_steps
        self.blocks: list[tuple[Seconds, Seconds]] = []
        self._done = -num_steps  # the first block warms up

    def before_train(self) -> None:
        batches = iter(self.trainer.data_loader)
        self._ready = [next(batches) for _ in range(4)]

    def between_steps(self) -> None:
        self._done += 1
        if self._done % self.num_steps == 1:
            self._start = self._now()
        elif self._done % self.num_steps == 0:
            ours, bare = self._now() - self._start, self._bare_block()
            if self._done > 0:
                self.blocks.append((ours, bare))
            if len(self.blocks) == self.num_blocks:
                raise Enough

    def _bare_block(self) -> Seconds:
        for step in range(self.num_steps):
            if step == 1:
                start = self._now()
            self._bare_step(self._ready[step % len(self._ready)])
        return self._now() - start

    def _bare_step(self, batch: dict[str, Any]) -> None:
        trainer = self.trainer
        with trainer.autocast():
            loss = sum(trainer.model(batch).values())
        loss.backward()
        trainer.optimizer.step()
        trainer.optimizer.zero_grad(set_to_none=True)

    def _now(self) -> Seconds:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return Seconds(time.perf_counter(), time.process_time(), sum(self.trainer.data_loader.seconds))


def loading_seconds(loader: Any, rounds: int = 8) -> float:
    """CPU seconds that data workers take for a batch, without handing it over: the best of a few."""
    best, draws = float("inf"), iter(loader.sampler)
    for _ in range(rounds):
        start = time.process_time()
        loader.collate_fn(loader.dataset.__getitems__(list(islice(draws, loader.batch_size))))
        best = min(best, time.process_time() - start)
    return best


def config(name: str, root: Path, output: str, keys: list[Any]) -> CfgNode:
    """The recipe of a model, for as many steps as it may take."""
    file, changes = MODELS[name]
    cfg = get_cfg()
    cfg.merge_from_file(ROOT / file)
    cfg.merge_from_list([*changes, "DATASETS.ROOT", str(root), "OUTPUT_DIR", output, "MODEL.WEIGHTS", ""])
    cfg.merge_from_list(["SOLVER.MAX_EPOCH", 10**6, "SOLVER.CHECKPOINT_PERIOD", 0, "TEST.EVAL_PERIOD", 0, *keys])
    return cfg


def measure(name: str, root: Path, num_blocks: int, num_steps: int, keys: list[Any]) -> list[str]:
    """The row of one model."""
    with tempfile.TemporaryDirectory() as output:
        trainer = DefaultTrainer(config(name, root, output, keys))
        loading = loading_seconds(trainer.data_loader)
        turns = TakingTurns(num_blocks, num_steps)
        trainer.register_hooks([turns])
        trainer.data_loader = Waiting(trainer.data_loader)
        try:
            trainer.train()
        except Enough:
            pass
    timed = num_steps - 1
    wall, cpu = (sorted(ours[kind] / bare[kind] for ours, bare in turns.blocks) for kind in (0, 1))
    ours, bare = (Seconds(*(statistics.median(kind) / timed for kind in zip(*column, strict=True)))
                  for column in zip(*turns.blocks, strict=True))  # fmt: skip
    best_ours, best_bare = (min(seconds.wall for seconds in column) for column in zip(*turns.blocks, strict=True))
    return [
        name,
        str(trainer.cfg.SOLVER.IMS_PER_BATCH),
        f"{bare.wall:.3f}",
        f"{ours.wall:.3f}",
        f"{statistics.median(wall):.3f} ({wall[len(wall) // 4]:.3f} to {wall[-1 - len(wall) // 4]:.3f})",
        f"{best_ours / best_bare:.3f}",
        f"{statistics.median(cpu):.3f}",
        f"{1000 * ours.waited:.1f}",
        f"{1000 * loading:.1f}",
        f"{loading / bare.cpu:.3f}",
    ]


def prepare(root: Path, models: list[str]) -> None:
    """The rendered people and, for stage 2, the random UNet."""
    if not (root / "CARGO").is_dir():
        render_benchmark(root, "CARGO", train_ids=100, test_ids=10, images_per_id=10, seed=0)
    if "stage2" in models and not Path("pretrained/random-tiny").is_dir():
        subprocess.run([sys.executable, str(ROOT / "tools/make_assets.py"), "--size", "tiny"], check=True)


def main() -> None:
    """Parse the command line, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["stage1", "stage2"])
    parser.add_argument("--root", type=Path, default=Path("datasets/quickstart"), help="folder of the rendered CARGO")
    parser.add_argument("--blocks", type=int, default=12, help="of each kind")
    parser.add_argument("--steps", type=int, default=8, help="per block; the first is not timed")
    parser.add_argument("--workers", type=int, default=2, help="data workers")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the training process")
    parser.add_argument("keys", nargs="*", metavar="KEY VALUE", help="config keys")
    args = parser.parse_args()
    logging.getLogger("fastreid").setLevel(logging.ERROR)
    torch.set_num_threads(args.threads)
    prepare(args.root, args.models)
    print(f"{torch.get_num_threads()} threads and {args.workers} data workers, torch {torch.__version__}")
    keys = ["DATALOADER.NUM_WORKERS", args.workers, *args.keys]
    rows = [measure(name, args.root, args.blocks, args.steps, keys) for name in args.models]
    headers = [
        *("model", "images", "bare, s", "trainer, s", "ratio (quartiles)", "of the best blocks", "CPU ratio"),
        *("data wait, ms", "loading, CPU ms", "loading / bare CPU"),
    ]
    print(tabulate(rows, headers, disable_numparse=True))


if __name__ == "__main__":
    main()
