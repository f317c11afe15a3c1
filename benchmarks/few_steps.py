#!/usr/bin/env python
"""Measures what fewer steps of the solver cost: time, and what the re-identification filter says of the pictures.

    python benchmarks/few_steps.py [--per-person 4] [--output logs/few_steps] [--lora FILE]

`./quickstart.sh diffperson` trains the generator and the models of the filter. Each row writes pictures of all people
with the same seeds, and filters them by thresholds that are calibrated on held-out real images. Time includes loading
the generator. The first row is the baseline. With --lora there are rows of latent consistency sampling with these
LoRA weights, which must have been trained for the Stable Diffusion of the quickstart.
"""

import argparse
import logging
import shutil
import statistics
import time
from pathlib import Path

from fastreid.config import CfgNode, get_cfg
from fastreid.generation.few_steps import CONSISTENCY
from fastreid.generation.filtering import filter_pictures
from fastreid.generation.journal import Journal
from fastreid.generation.shards import Shard
from fastreid.generation.stages import generate
from fastreid.utils.errors import reported_as
from written import DATA, ROOT

from tabulate import tabulate

QUICKSTART = ROOT / "logs/quickstart_diffperson"
ROWS = (("ddim", 50), ("dpm++", 20), ("dpm++", 10), ("dpm++", 5))
HEADERS = ["solver", "steps", "pictures/s", "times the first", "cosine to the person", "kept by thresholds (%)"]


def config(folder: Path, *keys: object) -> CfgNode:
    """Return the config of the quickstart with another folder and other keys."""
    cfg = get_cfg()
    cfg.merge_from_file(str(ROOT / "configs/quickstart/diffperson.yml"))
    cfg.merge_from_list(["DATASETS.ROOT", str(DATA), "OUTPUT_DIR", str(folder), *map(str, keys)])
    cfg.freeze()
    return cfg


def measure(folder: Path, solver: str, steps: int, per_person: int, *more: object) -> tuple[float, float, float]:
    """Return pictures per second, the mean s_id of the filter, and the share that it keeps in percent."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("captions", "train"):
        (folder / name).symlink_to(QUICKSTART / name)
    keys = ["DIFFPERSON.GEN.SOLVER", solver, "DIFFPERSON.GEN.STEPS", steps, "DIFFPERSON.GEN.PER_ID", per_person, *more]
    cfg = config(folder, *keys, "DIFFPERSON.FILTER.MODE", "threshold", "DIFFPERSON.FILTER.NAMES", "['reid']")
    start = time.perf_counter()
    written = generate(cfg, Shard())
    seconds = time.perf_counter() - start
    filter_pictures(cfg, Shard())
    rows = Journal(folder / "filter").rows()
    identity = statistics.mean(row["scores"]["reid.identity"] for row in rows)
    return written / seconds, identity, 100 * statistics.mean(row["kept"] for row in rows)


def main() -> None:
    """Parse the command line, measure each row, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--per-person", type=int, default=4, metavar="N", help="pictures (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("logs/few_steps"), help="default: %(default)s")
    parser.add_argument("--lora", type=Path, metavar="FILE", help="LCM-LoRA of this Stable Diffusion")
    args = parser.parse_args()
    consistent = ("DIFFPERSON.GEN.LORA", args.lora, "DIFFPERSON.GEN.GUIDANCE", 1.5)
    rows = [*((*row, ()) for row in ROWS), *((CONSISTENCY, steps, consistent) for steps in (8, 4) if args.lora)]
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    table: list[list[object]] = []
    rates: list[float] = []
    for solver, steps, more in rows:
        folder = args.output.resolve() / f"{solver.replace('+', 'p')}{steps}"
        rate, identity, kept = measure(folder, solver, steps, args.per_person, *more)
        rates.append(rate)
        table.append([solver, steps, f"{rate:.1f}", f"{rate / rates[0]:.1f}", f"{identity:.2f}", f"{kept:.0f}"])
    print(tabulate(table, HEADERS, "github", disable_numparse=True))


if __name__ == "__main__":
    with reported_as("few_steps"):
        main()
