#!/usr/bin/env python
"""Evaluates descriptors of any program.

evaluate_features.py --query q.npz --gallery g.npz KEY VALUE …
"""

from __future__ import annotations

import argparse
import logging
from typing import Any

from fastreid.config import CfgNode, ConfigError, get_cfg, refuse_unsupported, user_path
from fastreid.evaluation.breakdown import breakdown_table, with_camera_names
from fastreid.evaluation.feature_files import read_feature_pair
from fastreid.evaluation.results import write_json
from fastreid.evaluation.roc import Curves, roc_curve
from fastreid.evaluation.scoring import score_features
from fastreid.evaluation.scoring_options import Scoring
from fastreid.evaluation.thresholds import threshold_table, thresholds_of
from fastreid.utils.errors import UserError, reported_as
from fastreid.utils.files import check_output
from fastreid.utils.lock import path_lock
from fastreid.utils.optional import optional

from tabulate import tabulate

_PARTS = "DBA AQE RERANK ROC METRIC ENGINE SEARCH MEMORY_BUDGET SINGLE_SHOT BREAKDOWN RECALLS"
_KEYS = ("MODEL.DEVICE.", *(f"TEST.{part}." for part in _PARTS.split()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Files: .npz or .safetensors with features [N, D], pids [N], camids [N] and, if there are, viewids [N]; "
        "or .npy with the features, and a .csv of the same name with columns pid, camid and, if there are, viewid.",
    )
    add = parser.add_argument
    add("--query", type=user_path, required=True, metavar="FILE")
    add("--gallery", type=user_path, required=True, metavar="FILE")
    add("--output", type=user_path, metavar="FILE", help="also write the figures as JSON")
    add("--plots", type=user_path, metavar="FOLDER", help="draw match curve, ROC, DET and distances there")
    add("options", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys: TEST.RERANK.ENABLED True")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the command line `argv` (default: that of the process)."""
    with reported_as("evaluate_features"):
        _evaluate(_parser().parse_args(argv))


def _evaluate(args: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cfg = get_cfg()
    if args.output:
        read = (args.query, args.gallery)
        if args.output.is_dir():
            raise UserError(f"--output {args.output} is a folder: name a file in it")
        check_output(args.output, (*read, *(path.with_suffix(".csv") for path in read)))
    try:
        cfg.merge_from_list(_scoring_keys(args.options))
        refuse_unsupported(cfg)
        _refuse_unread(cfg, args.options)
        query, gallery = read_feature_pair(args.query, args.gallery)
        ids = query.pids, gallery.pids, query.camids, gallery.camids
        scoring = Scoring.from_config(cfg)
        result = score_features(
            query.rows, gallery.rows, *ids, scoring, q_viewids=query.viewids, g_viewids=gallery.viewids
        )
        roc = result.roc or (roc_curve(result.distances, result.matches) if args.plots else None)
    except (ImportError, ValueError) as error:
        raise UserError(str(error)) from error
    further: dict[str, Any] = {}
    if result.breakdown:
        further["breakdown"] = {
            by: with_camera_names(rows, query.camera_names) if by == "camera" else rows
            for by, rows in result.breakdown.items()
        }
    if result.roc:
        further["thresholds"] = thresholds_of(result.roc, scoring)
    with path_lock(args.output, args.plots):
        if args.output:
            write_json(args.output, result.metrics | further)
        if args.plots and roc is not None and optional("matplotlib.figure", "no plots are drawn"):
            from fastreid.evaluation.plots import draw_plots

            draw_plots({args.gallery.stem: Curves(result.cmc, roc)}, args.plots)
    print(tabulate([result.metrics], headers="keys", floatfmt=".2f"))
    for by, rows in further.get("breakdown", {}).items():
        print(f"\nby {by}\n{breakdown_table(rows)}")
    if result.roc:
        print(f"\nthresholds of the distance\n{threshold_table(further['thresholds'])}")


def _scoring_keys(options: list[str]) -> list[str]:
    """Return the options.

    Raises:
        ConfigError: a key that scoring does not read.
    """
    for key in options[::2]:
        if key == "TEST.FLIP.ENABLED":
            raise ConfigError("TEST.FLIP.ENABLED: there are no images to mirror, only descriptors")
        if key == "TEST.PLOTS":
            raise ConfigError("TEST.PLOTS: use --plots FOLDER instead")
        if not f"{key}.".startswith(_KEYS):
            names = ", ".join(name.rstrip(".") for name in _KEYS)
            raise ConfigError(f"{key} has no effect on scoring: only {names} have")
    return options


def _refuse_unread(cfg: CfgNode, options: list[str]) -> None:
    """Check that the parts whose keys are given are on.

    Raises:
        ConfigError: one of them is off.
    """
    for key in options[::2]:
        part = key.split(".")[1]
        is_on = part not in ("DBA", "AQE", "RERANK") or cfg.TEST[part].ENABLED
        if not (is_on or key.endswith(".ENABLED")):
            raise ConfigError(f"{key} has no effect without TEST.{part}.ENABLED True")


if __name__ == "__main__":
    main()
