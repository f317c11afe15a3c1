#!/usr/bin/env python
"""Times training steps of stage 2 on stored features against steps that decode images and run the encoder.

    python benchmarks/stored_features.py [--models quickstart unet true_size] [--steps 30] [--rounds 3]

Each round trains with MODEL.SDMODEL.FEATURE_CACHE empty, then with a folder, for the same number of steps each. Times
are of whole steps of the trainer, data included, after a warm-up. The ratio is the median over the rounds. `true_size`
is the published recipe of CARGO with batches of 16 (ViT-B/16, the UNet of Stable Diffusion 1.5 with random weights).
Images are a rendered CARGO (made in --root if it is not there), weights random.
"""

import argparse
import contextlib
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fastreid.config import get_cfg
from fastreid.engine import DefaultTrainer, HookBase
from fastreid.rendering import render_benchmark
from fastreid.utils.errors import reported_as

import torch
from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
# Name -> (config file, changed keys, size of the assets).
MODELS = {
    "quickstart": ("configs/quickstart/stage2.yml", [], ""),
    "unet": ("configs/quickstart/stage2_unet.yml", [], "tiny"),
    "true_size": ("configs/CARGO/base_stage2_step5.yml", ["SOLVER.IMS_PER_BATCH", 16], "sd15"),
}
WARMUP = 3


class Enough(Exception):
    """All steps were timed."""


class StepTimes(HookBase):
    """Records when each step ends, and stops the training after a number of steps."""

    def __init__(self, steps: int) -> None:
        self._steps, self.ends = steps, []

    def after_step(self) -> None:
        """Record the time."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())
        if len(self.ends) == WARMUP + self._steps:
            raise Enough

    @property
    def seconds(self) -> float:
        """Median time of a step after the warm-up."""
        ends = self.ends[WARMUP - 1 :]
        return statistics.median(b - a for a, b in zip(ends, ends[1:], strict=False))


def step_seconds(name: str, root: Path, cache: str, steps: int) -> float:
    """Train for some steps and return the median time of one."""
    file, changes, size = MODELS[name]
    cfg = get_cfg()
    cfg.merge_from_file(ROOT / file)
    with tempfile.TemporaryDirectory() as output:
        cfg.merge_from_list([*changes, "DATASETS.ROOT", str(root), "OUTPUT_DIR", output, "MODEL.WEIGHTS", ""])
        cfg.merge_from_list(["MODEL.BACKBONE.PRETRAIN", False, "MODEL.SDMODEL.FEATURE_CACHE", cache])
        if size:
            assets = str(ROOT / f"pretrained/random-{size}")
            cfg.merge_from_list(["MODEL.SDMODEL.UNET_CONFIG.PRETRAINED_PATH", f"{assets}/unet"])
            cfg.merge_from_list(["MODEL.SDMODEL.SCHEDULER_CONFIG.PRETRAINED_PATH", f"{assets}/scheduler"])
        cfg.merge_from_list(["SOLVER.MAX_EPOCH", 10**6, "SOLVER.CHECKPOINT_PERIOD", 0, "DATALOADER.NUM_WORKERS", 2])
        trainer = DefaultTrainer(cfg)
        trainer.model.person.memory.seen.fill_(True)
        times = StepTimes(steps)
        trainer.register_hooks([times])
        with contextlib.suppress(Enough):
            trainer.train()
    return times.seconds


def measure(name: str, root: Path, steps: int, rounds: int) -> list[str]:
    """Return the table row of a model."""
    with tempfile.TemporaryDirectory() as folder:
        pairs = [tuple(step_seconds(name, root, cache, steps) for cache in ("", folder)) for _ in range(rounds)]
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
    ratio = statistics.median(plain / stored for plain, stored in pairs)
    plain, stored = (statistics.median(column) for column in zip(*pairs, strict=True))
    return [name, f"{1e3 * plain:.0f}", f"{1e3 * stored:.0f}", f"{ratio:.1f}x", f"{size / 2**20:.0f}"]


def main() -> None:
    """Parse the command line, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["quickstart", "unet"])
    parser.add_argument("--root", type=Path, default=Path("datasets/quickstart"), help="folder of the rendered CARGO")
    parser.add_argument("--steps", type=int, default=30, help="timed steps")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    logging.getLogger("fastreid").setLevel(logging.ERROR)
    if not (args.root / "CARGO").is_dir():
        render_benchmark(args.root, "CARGO", train_ids=100, test_ids=10, images_per_id=10, seed=0)
    for name in args.models:
        size = MODELS[name][2]
        if size and not (ROOT / f"pretrained/random-{size}").is_dir():
            subprocess.run([sys.executable, str(ROOT / "tools/make_assets.py"), "--size", size], check=True)
    print(
        f"{torch.get_num_threads()} threads and 2 data workers, torch {torch.__version__}, {args.rounds} rounds in turn"
    )
    rows = [measure(name, args.root, args.steps, args.rounds) for name in args.models]
    headers = ["model", "with the encoder, ms/step", "stored features, ms/step", "ratio", "stored, MiB"]
    print(tabulate(rows, headers, disable_numparse=True))


if __name__ == "__main__":
    with reported_as("stored_features"):
        main()
