#!/usr/bin/env python
"""Says whether a checkpoint fits the model of a config: what matches, and a figure that a wrong load would spoil.

python tools/check_checkpoint.py market_bot_R50.pth --config-file configs/Market1501/bagtricks_R50.yml

The figure is the mAP of the model on rendered people, beside that of the same network with random weights. It needs no
data set. If both are alike, the weights are hardly trained, or the config says something else than their program did.
The published figure of a checkpoint needs its data set (tools/train_net.py --eval-only).
"""

from __future__ import annotations

import argparse

from fastreid import Predictor
from fastreid.config import get_cfg, user_path
from fastreid.evaluation.rank import evaluate_rank
from fastreid.modeling.model import build_model, evaluation_config_of
from fastreid.rendering import RenderConfig, RenderRequest, render_person
from fastreid.retrieval import build_dist
from fastreid.utils.checkpoint import load_weights
from fastreid.utils.display_text import printable
from fastreid.utils.errors import reported_as
from fastreid.utils.precision import set_float32_precision

import numpy as np
import torch
from tabulate import tabulate
from torch import nn

PEOPLE, IMAGES_PER_PERSON = 24, 4
_SEED = 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("checkpoint", type=user_path, metavar="FILE", help="the file, of this library, of fast-reid or of a fork of it")
    add("--config-file", type=user_path, required=True, metavar="CONFIG", help="the config of its model")
    add("--people", type=int, default=PEOPLE, help=f"rendered people (default: {PEOPLE})")
    add("opts", nargs="*", metavar="KEY VALUE", help="changes of the config")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the command line `argv` (default: that of the process)."""
    args = _parser().parse_intermixed_args(argv)
    if args.people < 2:
        _parser().error(f"--people must be 2 or more, got {args.people}")
    with reported_as("check_checkpoint"):
        cfg = get_cfg()
        cfg.merge_from_file(str(args.config_file))
        cfg.merge_from_list(args.opts)
        set_float32_precision(cfg.MODEL.FLOAT32)
        predictor = Predictor(args.checkpoint, config=cfg)
        report = load_weights(predictor.model, args.checkpoint, to_evaluate=True)
        rows = [
            ("tensors of the model", len(predictor.model.state_dict()), ""),
            ("filled by the file", len(report.matched), ""),
            ("classifiers of another class count", len(report.dropped_classifiers), report.dropped_classifiers),
            ("missing in the file", len(report.missing), report.missing),
            ("in the file only", len(report.unexpected), report.unexpected),
        ]
        print(f"{printable(str(args.checkpoint))} fits {args.config_file}\n")
        print(tabulate([(what, count, ", ".join(names)[:100]) for what, count, names in rows], tablefmt="plain"))
        found = figure(predictor, args.people)
        predictor.model = _untrained(predictor)
        random = figure(predictor, args.people)
        print(f"\nmAP on {args.people} rendered people: {found:.1f} %, with random weights {random:.1f} %")


def _untrained(predictor: Predictor) -> nn.Module:
    """Return the model of a predictor with random weights."""
    cfg = evaluation_config_of(predictor.cfg)
    torch.manual_seed(_SEED)
    return build_model(cfg, num_classes=cfg.MODEL.HEADS.NUM_CLASSES or 1).eval().requires_grad_(False)


def figure(predictor: Predictor, people: int = PEOPLE) -> float:
    """Return the mAP in percent of a model on rendered people, each image a query against all other cameras.

    Args:
        predictor: the model.
        people: their number.
    """
    request = RenderRequest("Market1501", 1, people, IMAGES_PER_PERSON, _SEED, RenderConfig())
    shots = [shot for pid in range(2, people + 2) for shot in request.shots(pid)]
    pictures = [
        render_person(request.person(shot.person), request.cameras[shot.camera], request.rng(shot), request.config)
        for shot in shots
    ]
    features = predictor.embed(pictures, normalize=False)
    pids, cameras = np.array([shot.person for shot in shots]), np.array([shot.camera for shot in shots])
    distances = build_dist(features, features, predictor.cfg.TEST.METRIC)
    return 100 * float(evaluate_rank(distances, pids, pids, cameras, cameras)[1].mean())


if __name__ == "__main__":
    main()
