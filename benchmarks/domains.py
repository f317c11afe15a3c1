#!/usr/bin/env python
"""Trains models in one rendered place, and evaluates them in it and in another one, with several seeds.

    python benchmarks/domains.py [dcac | pisl] [--seeds 1111 2 3] [--rows ROW …] [--root FOLDER] [--output FOLDER]

`./quickstart.sh dcac` or `./quickstart.sh pisl` renders the data, and trains the model that all rows start from. Rows
are the models of configs/quickstart with changed keys. Finished runs are not repeated. The tables have mean ± standard
deviation over seeds, and gains over the first row that are paired by seed.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rendered import folder_of, tables, train_net

# name -> (config, arguments of train_net.py)
Rows = Mapping[str, tuple[str, tuple[str, ...]]]


@dataclass(frozen=True)
class Study:
    """Rows that are compared.

    Args:
        rows: the first one is compared with the others.
        protocols: protocol -> its place, for the heading.
        gain: heading of the gains.
        weights: the model that all rows start from, unless the config names one.
    """

    rows: Rows
    protocols: Mapping[str, str]
    gain: str
    weights: str = ""


STRIPES = ("PISL.SDM.PATCH_SOURCE", "stripes")
ANY_CAMERA = ("DATALOADER.SAMPLER_TRAIN", "NaiveIdentitySampler")
RELEASED_PISL = ("--overlay", "configs/_base_/pisl_released.yml")
CLUSTER_CONTRAST = ("MODEL.META_ARCHITECTURE", "ClusterContrast", "DATALOADER.NUM_INSTANCE", "8")
STUDIES = {
    "dcac": Study(
        {
            "baseline": ("dcac_baseline", ()),
            "DCAC": ("dcac", ()),
            "hard labels": ("dcac", ("DCAC.COND.HARD_LABEL", "True")),
            "no feedback (detached condition)": ("dcac", ("DCAC.COND.DETACH", "True")),
            "instance-wise condition": ("dcac", ("DCAC.COND.SOURCE", "feature")),
            "untrained denoiser": ("dcac", ("DCAC.SD.FINETUNE", "freeze")),
            "condition of prototypes": ("dcac", ("DCAC.COND.SOURCE", "pcl")),
            "DCAC, 10 x the weight of the feedback": ("dcac", ("MODEL.LOSSES.DIFF.SCALE", "10.0")),
            "released overlay": ("dcac", ("--overlay", "configs/_base_/dcac_released.yml")),
        },
        {"Market1501": "same place", "DukeMTMC": "other place"},
        "gain over the baseline",
    ),
    "pisl": Study(
        {
            "before adaptation": ("pisl_baseline", ("--eval-only",)),
            "Cluster Contrast": ("pisl", CLUSTER_CONTRAST),
            "PPLR": ("pisl", (*STRIPES, "PISL.PSC.SCORE", "jaccard")),
            "PISL": ("pisl", ()),
            "PISL, released overlay": ("pisl", RELEASED_PISL),
            "PISL, fixed stripes": ("pisl", STRIPES),
            "PISL, patches of the localisation network": ("pisl", ("PISL.SDM.PATCH_SOURCE", "init")),
            "PISL, global feature alone": ("pisl", ("PISL.NUM_PARTS", "0")),
            "PISL, without camera labels": (
                "pisl",
                ("PISL.CAM.ENABLED", "False", "CLUSTER.CAMERA_AWARE", "False", *ANY_CAMERA),
            ),
        },
        {"MSMT17": "the place without labels", "Market1501": "the place with labels"},
        "gain over before adaptation",
        "logs/quickstart_pisl/pisl_baseline/model_final.pth",
    ),
}


def run(study: Study, name: str, seed: int, root: str, output: Path, weights: str) -> dict[str, dict]:
    """Train one row with one seed and return {protocol: figures}."""
    config, arguments = study.rows[name]
    folder = output / f"seed{seed}" / folder_of(name)
    keys = ["MODEL.SEED", str(seed), "DATASETS.ROOT", root]
    if weights:
        keys += ["MODEL.WEIGHTS", weights]
    if config == "dcac":
        keys += ["DCAC.SD.LATENT_CACHE", str(output / "latents")]
    train_net(f"configs/quickstart/{config}.yml", folder, *keys, *arguments)
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def main() -> None:
    """Parse the command line, run everything, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", nargs="?", choices=STUDIES, default="dcac")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1111, 2, 3])
    parser.add_argument("--root", default="datasets/quickstart_dg", help="folder of the rendered sets")
    parser.add_argument("--output", type=Path, help="default: logs/domains, or logs/domains_pisl")
    parser.add_argument("--weights", help="the model that all rows start from (default: that of the quickstart)")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="rows beside the first one (default: all)")
    args = parser.parse_args()
    study = STUDIES[args.study]
    first, *others = study.rows
    chosen = args.rows or others
    if unknown := set(chosen) - set(study.rows):
        parser.error(f"no row is called {', '.join(sorted(unknown))}; rows are: {'; '.join(study.rows)}")
    output = args.output or Path("logs/domains" if args.study == "dcac" else f"logs/domains_{args.study}")
    root, output = str(Path(args.root).resolve()), output.resolve()
    weights = str(Path(args.weights or study.weights).resolve()) if args.weights or study.weights else ""
    rows = {}
    for name in (first, *chosen):
        rows[name] = [run(study, name, seed, root, output, weights) for seed in args.seeds]
        (output / "results.md").write_text(tables(rows, study.protocols, study.gain), encoding="utf-8")  # so far
    print(tables(rows, study.protocols, study.gain))


if __name__ == "__main__":
    main()
