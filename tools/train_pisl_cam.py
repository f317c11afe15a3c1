#!/usr/bin/env python
"""Trains or evaluates PISL by the options of its release, which are translated into config keys.

python tools/train_pisl_cam.py -d market1501 --eps 0.4 --logs-dir logs/pisl
python tools/train_pisl_cam.py -d market1501 --evaluate logs/pisl/model_final.pth --rerank

The equivalent command of tools/train_net.py is printed, and run. In training, an option that is not given has the
release's default; a default that is not the recipe's becomes a key too. KEY VALUE pairs come last.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from fastreid.config import CfgNode, get_cfg
from fastreid.utils.errors import reported_as
from train_net import run as run_train_net

RECIPES = Path(__file__).resolve().parents[1] / "configs/PISL"
DATASETS = ("market1501", "msmt17", "veri")


@dataclass(frozen=True)
class Option:
    """An option of the release.

    Attributes:
        names: of the seed's description first, then the release's.
        default: the release's; its type is that of the values.
        keys: that get the value.
        about: help text.
    """

    names: tuple[str, ...]
    default: int | float
    keys: tuple[str, ...]
    about: str

    @property
    def dest(self) -> str:
        """Attribute of the parsed arguments."""
        return max(self.names, key=lambda name: name.startswith("--")).lstrip("-").replace("-", "_")


_SIZES = ("INPUT.SIZE_TRAIN", "INPUT.SIZE_TEST")
OPTIONS = (
    Option(("-b", "--batch-size"), 64, ("SOLVER.IMS_PER_BATCH",), "images per step; per batch with --evaluate"),
    Option(("-j", "--workers"), 4, ("DATALOADER.NUM_WORKERS",), "processes that read images"),
    Option(("-n", "--num-instances"), 4, ("DATALOADER.NUM_INSTANCE",), "images of each cluster in a batch"),
    Option(("--height",), 384, _SIZES, "height of images"),
    Option(("--width",), 128, _SIZES, "width of images"),
    Option(("--part",), 3, ("PISL.NUM_PARTS",), "parts of a person"),
    Option(("--eps",), 0.5, ("CLUSTER.EPS",), "distance of neighbours in DBSCAN"),
    Option(("--k1",), 30, ("CLUSTER.K1",), "neighbours of the Jaccard distance"),
    Option(("--k2",), 6, ("CLUSTER.K2",), "neighbours of its local expansion; the release ignores it"),
    Option(("--knn",), 20, ("PISL.PSC.KNN",), "neighbours of the consistency score"),
    Option(("--lam-cam", "--Wcam"), 0.5, ("PISL.CAM.WEIGHT",), "weight of the camera loss"),
    Option(("--lam-diff", "--Wdiff"), 0.1, ("PISL.SCD.WEIGHT",), "weight of the diffusion loss"),
    Option(("--Wref",), 0.5, ("PISL.PSC.REFINE",), "weight of the pseudo-label in the refined label"),
    Option(("--se",), 5, ("PISL.PSC.SMOOTH_START",), "epoch from which scores smooth the labels of parts"),
    Option(("--epochs",), 50, ("SOLVER.MAX_EPOCH", "SOLVER.STEPS"), "epochs"),
    Option(("--iters",), 400, ("SOLVER.ITERS_PER_EPOCH",), "steps of an epoch"),
    Option(("--step-size",), 20, ("SOLVER.STEPS",), "epochs after which the learning rate is divided by 10"),
    Option(("--lr",), 3.5e-4, ("SOLVER.BASE_LR",), "learning rate"),
    Option(
        ("--weight-decay",),
        5e-4,
        ("SOLVER.WEIGHT_DECAY", "SOLVER.WEIGHT_DECAY_NORM", "SOLVER.WEIGHT_DECAY_BIAS"),
        "weight decay",
    ),
    Option(("--eval-step",), 5, ("TEST.EVAL_PERIOD",), "epochs between evaluations"),
    Option(("--seed",), 1, ("MODEL.SEED",), "seed"),
)
OF_EVALUATION = {"batch_size": "TEST.IMS_PER_BATCH", "workers": "", "height": "", "width": "", "seed": ""}
"""Options that --evaluate has, with the key that they have then if it is another one."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("-d", "--dataset", choices=DATASETS, required=True, help="the recipe in configs/PISL")
    for option in OPTIONS:
        about = f"{option.about} (default: {option.default})"
        add(*option.names, dest=option.dest, type=type(option.default), metavar="N", help=about)
    add(
        "--no-camera",
        action="store_true",
        help="train without camera labels: no camera loss, and images are drawn whatever their camera",
    )
    add(
        "--logs-dir",
        metavar="FOLDER",
        help="OUTPUT_DIR (default: the recipe's, followed by _no_camera with --no-camera)",
    )
    add("--data-dir", metavar="FOLDER", help="the folder that contains the data sets, DATASETS.ROOT")
    add("--evaluate", metavar="WEIGHTS", help="evaluate this checkpoint instead of training")
    add("--rerank", action="store_true", help="evaluate with k-reciprocal re-ranking")
    add(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        metavar="WEIGHTS",
        help="continue the run in --logs-dir, if there is one; with a checkpoint, the same as --evaluate, as in the "
        "release's test.py",
    )
    add("--dry-run", action="store_true", help="build everything, print summaries and stop")
    add("--overlay", action="append", default=[], metavar="FILE", help="as of train_net.py")
    add("--num-gpus", type=int, metavar="N", help="processes")
    add("keys", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="further config keys")
    return parser


def equivalent(words: Sequence[str] | None = None) -> list[str]:
    """Return the arguments of train_net.py that do the same.

    Args:
        words: arguments of this tool (default: those of the process).
    """
    parser = _parser()
    args = parser.parse_args(words)
    _read_resume(parser, args)
    recipe = RECIPES / f"{args.dataset}.yml"
    if args.step_size is not None and args.step_size < 1:
        parser.error(f"--step-size must be at least 1, got {args.step_size}")
    keys = _keys_of_evaluation(parser, args) if args.evaluate else _keys_of_training(args, recipe)
    shown = os.path.relpath(recipe) if recipe.is_relative_to(Path.cwd()) else str(recipe)
    flags = [word for file in args.overlay for word in ("--overlay", file)]
    flags += ["--eval-only"] * bool(args.evaluate) + ["--resume"] * args.resume + ["--dry-run"] * args.dry_run
    flags += [] if args.num_gpus is None else ["--num-gpus", str(args.num_gpus)]
    pairs = [word for key, value in keys.items() for word in (key, str(value))]
    return ["--config-file", shown, *flags, *pairs, *args.keys]


def _read_resume(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Set --evaluate to a checkpoint after --resume, and leave a key that follows it to the others."""
    if not isinstance(args.resume, str):
        return
    if re.fullmatch(r"[A-Z][A-Z0-9_.]*", args.resume) and args.keys:
        args.keys, args.resume = [args.resume, *args.keys], True
    elif args.evaluate:
        parser.error(f"--evaluate {args.evaluate} and --resume {args.resume} both name a checkpoint; give one")
    else:
        args.evaluate, args.resume = args.resume, False


def _keys_of_training(args: argparse.Namespace, recipe: Path) -> dict[str, Any]:
    """Keys of the options that are given, and of defaults that are not the recipe's."""
    cfg = get_cfg()
    cfg.merge_from_file(str(recipe))
    given = {key for option in OPTIONS if getattr(args, option.dest) is not None for key in option.keys}
    values: dict[str, Any] = {option.dest: option.default for option in OPTIONS}
    values |= {name: value for name, value in vars(args).items() if name in values and value is not None}
    found: dict[str, Any] = {key: values[option.dest] for option in OPTIONS for key in option.keys}
    found |= dict.fromkeys(_SIZES, [values["height"], values["width"]])
    found["SOLVER.STEPS"] = list(range(values["step_size"], values["epochs"], values["step_size"]))
    keys = {key: value for key, value in found.items() if key in given or value != _value(cfg, key)}
    if args.no_camera:
        keys |= {"PISL.CAM.ENABLED": False, "DATALOADER.SAMPLER_TRAIN": "NaiveIdentitySampler"}
        keys["OUTPUT_DIR"] = f"{cfg.OUTPUT_DIR}_no_camera"  # not the folder of the run with cameras
    return keys | _keys_of_both(args)


def _keys_of_evaluation(parser: argparse.ArgumentParser, args: argparse.Namespace) -> dict[str, Any]:
    """Keys of the options that are given; those of training are errors."""
    given = [option for option in OPTIONS if getattr(args, option.dest) is not None]
    of_training = [option.names[0] for option in given if option.dest not in OF_EVALUATION]
    of_training += ["--no-camera"] * args.no_camera + ["--resume"] * args.resume
    if of_training:
        parser.error(f"not with --evaluate, which trains nothing: {', '.join(of_training)}")
    if (args.height is None) != (args.width is None):
        parser.error("--evaluate needs both --height and --width, or none of them for the recipe's size")
    keys: dict[str, Any] = {"MODEL.WEIGHTS": args.evaluate}
    for option in given:
        value = getattr(args, option.dest)
        if option.keys == _SIZES:
            keys |= {"INPUT.SIZE_TEST": [args.height, args.width]}
        else:
            keys[OF_EVALUATION[option.dest] or option.keys[0]] = value
    return keys | _keys_of_both(args)


def _keys_of_both(args: argparse.Namespace) -> dict[str, Any]:
    keys = {"DATASETS.ROOT": args.data_dir, "OUTPUT_DIR": args.logs_dir, "TEST.RERANK.ENABLED": args.rerank or None}
    return {key: value for key, value in keys.items() if value is not None}


def _value(cfg: CfgNode, key: str) -> Any:
    value = reduce(getattr, key.split("."), cfg)
    return list(value) if isinstance(value, tuple) else value


def main() -> None:
    """Run the command line."""
    with reported_as("train_pisl_cam"):
        words = equivalent()
    print(f"equivalent: python tools/train_net.py {shlex.join(words)}", flush=True)
    run_train_net(words)


if __name__ == "__main__":
    main()
