#!/usr/bin/env python
"""Trains models in one rendered place, and evaluates them in it and in another one, with several seeds.

    python benchmarks/domains.py [--seeds 1111 2 3] [--rows ROW …] [--root FOLDER] [--output FOLDER]

`./quickstart.sh dcac` renders the data and makes the assets. Rows are the models of configs/quickstart/dcac.yml with
changed keys. Finished runs are not repeated. The tables have mean ± standard deviation over seeds, and gains over the
baseline that are paired by seed.
"""

import argparse
import json
from pathlib import Path

from rendered import folder_of, tables, train_net

BASELINE = "baseline"
PROTOCOLS = {"Market1501": "same place", "DukeMTMC": "other place"}
GAIN = "gain over the baseline"
# name -> (config, arguments of train_net.py)
ROWS: dict[str, tuple[str, tuple[str, ...]]] = {
    BASELINE: ("dcac_baseline", ()),
    "DCAC": ("dcac", ()),
    "hard labels": ("dcac", ("DCAC.COND.HARD_LABEL", "True")),
    "no feedback (detached condition)": ("dcac", ("DCAC.COND.DETACH", "True")),
    "instance-wise condition": ("dcac", ("DCAC.COND.SOURCE", "feature")),
    "untrained denoiser": ("dcac", ("DCAC.SD.FINETUNE", "freeze")),
    "condition of prototypes": ("dcac", ("DCAC.COND.SOURCE", "pcl")),
    "DCAC, 10 x the weight of the feedback": ("dcac", ("MODEL.LOSSES.DIFF.SCALE", "10.0")),
    "released overlay": ("dcac", ("--overlay", "configs/_base_/dcac_released.yml")),
}


def run(name: str, seed: int, root: str, output: Path) -> dict[str, dict]:
    """Train one row with one seed and return {protocol: figures}."""
    config, arguments = ROWS[name]
    folder = output / f"seed{seed}" / folder_of(name)
    keys = ("MODEL.SEED", str(seed), "DATASETS.ROOT", root, "DCAC.SD.LATENT_CACHE", str(output / "latents"))
    train_net(f"configs/quickstart/{config}.yml", folder, *keys, *arguments)
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def main() -> None:
    """Parse the command line, run everything, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1111, 2, 3])
    parser.add_argument("--root", default="datasets/quickstart_dg", help="folder of the two rendered sets")
    parser.add_argument("--output", type=Path, default=Path("logs/domains"))
    parser.add_argument("--rows", nargs="+", metavar="ROW", default=list(ROWS)[1:], help="rows beside the baseline")
    args = parser.parse_args()
    if unknown := set(args.rows) - set(ROWS):
        parser.error(f"no row is called {', '.join(sorted(unknown))}; rows are: {'; '.join(ROWS)}")
    root, output = str(Path(args.root).resolve()), args.output.resolve()
    rows = {}
    for name in (BASELINE, *args.rows):
        rows[name] = [run(name, seed, root, output) for seed in args.seeds]
        (output / "results.md").write_text(tables(rows, PROTOCOLS, GAIN), encoding="utf-8")  # the results so far
    print(tables(rows, PROTOCOLS, GAIN))


if __name__ == "__main__":
    main()
