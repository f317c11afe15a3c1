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

from rendered import cell, folder_of, train_net

from tabulate import tabulate

BASELINE = "baseline"
PROTOCOLS = {"Market1501": "same place", "DukeMTMC": "other place"}
FIGURES = ("mAP", "Rank-1")
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


def tables(rows: dict[str, list[dict[str, dict]]]) -> str:
    """Both tables as Markdown; rows: name -> results of each seed."""
    figures, gains = [], []
    for name, seeds in rows.items():
        cells, differences = [], []
        for protocol in PROTOCOLS:
            pairs = list(zip(seeds, rows[BASELINE], strict=True))
            cells.append(" / ".join(cell([after[protocol][figure] for after, _ in pairs]) for figure in FIGURES))
            paired = ([after[protocol][f] - before[protocol][f] for after, before in pairs] for f in FIGURES)
            differences.append(" / ".join(cell(difference, "+") for difference in paired))
        figures.append([name, *cells])
        gains.append([name, *differences])
    titles = list(PROTOCOLS.values())
    return (
        f"{tabulate(figures, ['mAP / Rank-1 (%)', *titles], 'github')}\n\n"
        f"{tabulate(gains[1:], ['gain over the baseline', *titles], 'github')}\n"
    )


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
        (output / "results.md").write_text(tables(rows), encoding="utf-8")  # the results so far
    print(tables(rows))


if __name__ == "__main__":
    main()
