#!/usr/bin/env python
"""Says how alike the people in some images are: the distance of each image to the first one.

python tools/compare_images.py logs/small/resnet18/model_final.pth a.jpg b.jpg c.jpg

If the folder of the checkpoint has thresholds.json (TEST.ROC.ENABLED) of an evaluation of this checkpoint, the
threshold of --false-matches decides whether two images show the same person.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastreid import Predictor
from fastreid.config import user_path
from fastreid.engine.evaluating import last_evaluation
from fastreid.evaluation.results import THRESHOLDS
from fastreid.evaluation.thresholds import MATCH_RATES, match_rate_choice, rate_label
from fastreid.retrieval import build_dist
from fastreid.utils.checkpoint_file import read_checkpoint
from fastreid.utils.display_text import printable
from fastreid.utils.errors import UserError, reported_as
from fastreid.utils.manifest import EVALUATION, read_manifest
from fastreid.utils.precision import set_float32_precision
from fastreid.utils.text import TextError, read_json

from tabulate import tabulate


class ThresholdError(UserError, ValueError):
    """thresholds.json cannot be read, or has no threshold for this checkpoint."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("checkpoint", type=user_path, metavar="CHECKPOINT", help="model_final.pth of a run")
    add("first", type=user_path, metavar="IMAGE", help="image that the others are compared with")
    add("others", type=user_path, nargs="+", metavar="IMAGE", help="other images")
    rates = [f"{100 * rate:g}" for rate in MATCH_RATES]
    add("--false-matches", choices=rates, default="1", help="rate of the threshold, in percent (default: 1)")
    add("--protocol", help="whose threshold is taken (default: the first one of thresholds.json)")
    add(
        "--thresholds",
        type=user_path,
        metavar="FILE",
        help="thresholds of this checkpoint (default: thresholds.json beside it)",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the command line `argv` (default: that of the process)."""
    with reported_as("compare_images"):
        args = _parser().parse_args(argv)
        rate = float(args.false_matches) / 100
        predictor = Predictor(args.checkpoint)
        set_float32_precision(predictor.cfg.MODEL.FLOAT32)  # as for the thresholds
        metric = predictor.cfg.TEST.METRIC
        features = predictor.embed([args.first, *args.others], normalize=False)
        distances = build_dist(features[:1], features[1:], metric)[0].tolist()
        file = args.thresholds or args.checkpoint.parent / THRESHOLDS
        doubt = "" if args.thresholds else _doubt(args.checkpoint)
        point = None if doubt else _point(file, args.protocol, rate, metric, is_needed=args.thresholds or args.protocol)
        rows = [
            [printable(os.fspath(path)), f"{distance:.3f}", *([_verdict(distance, point)] if point else [])]
            for path, distance in zip(args.others, distances, strict=True)
        ]
        headers = [f"compared with {printable(os.fspath(args.first))}", f"{metric} distance", "same person?"]
        print(tabulate(rows, headers=headers[: len(rows[0])], disable_numparse=True, colalign=["left", "right"]))
        print(f"\n{_explained(point, rate) if point else doubt or _NOT_KNOWN}")


_NOT_KNOWN = f"No threshold is known: {THRESHOLDS}, which TEST.ROC.ENABLED True writes, is not beside the checkpoint."


def _doubt(checkpoint: Path) -> str:
    """Return why the thresholds beside a checkpoint may be of another one; "" if there is no reason."""
    folder, others = checkpoint.parent, ""
    if not (folder / THRESHOLDS).is_file():
        return ""
    if done := last_evaluation(folder):  # else the checkpoint need not be read again
        iteration = read_checkpoint(checkpoint).get("iteration")
        if iteration not in (None, done.iteration):
            others = f"iteration {done.iteration}, and {checkpoint.name} is of iteration {iteration}"
    evaluated = _evaluated_in(folder)
    if evaluated and evaluated != checkpoint.name:
        others = f"{evaluated}, which was evaluated in this folder"
    return others and (
        f"No threshold is taken: {folder / THRESHOLDS} may be of {others}. Evaluate this checkpoint with train_net.py "
        f"--eval-only and an OUTPUT_DIR of its own, and give its {THRESHOLDS} with --thresholds."
    )


def _evaluated_in(folder: Path) -> str:
    """Return the name of the checkpoint that was evaluated in a folder; "" if it is not known."""
    try:
        return Path((read_manifest(folder / EVALUATION) or {})["config"]["MODEL"]["WEIGHTS"]).name
    except (KeyError, TypeError):
        return ""


def _verdict(distance: float, point: dict[str, Any]) -> str:
    if point["threshold"] is None:
        return "not known"
    return "yes" if distance <= point["threshold"] else "no"


def _explained(point: dict[str, Any], rate: float) -> str:
    """Return a sentence about the threshold."""
    pairs = f"{rate_label(rate)} of pairs of two people"
    if point["threshold"] is None:
        return f"There is no threshold at which at most {pairs} are accepted ({point['source']})."
    return (
        f"The threshold is {point['threshold']:.3f}: at most {pairs} are nearer, and {point['true_match_rate']:.0f} % "
        f"of pairs of one person ({point['source']})."
    )


def _refuse_other_distances(found: Mapping[str, Any], metric: str, where: str) -> None:
    """Check that thresholds are of the distances that two images have by themselves.

    Raises:
        ThresholdError: they are of another metric, or of distances that depend on the gallery.
    """
    if found.get("metric", metric) != metric:
        raise ThresholdError(
            f"the thresholds of {where} are {found['metric']} distances, and the checkpoint has TEST.METRIC {metric}: "
            f"evaluate again with TEST.METRIC {metric}"
        )
    if changed := found.get("changed_by"):
        keys = ", ".join(map(str, changed)) if isinstance(changed, list) else changed
        raise ThresholdError(
            f"the thresholds of {where} are of distances that depend on the whole gallery ({keys}): evaluate again "
            "without it"
        )


def _point(file: Path, protocol: str | None, rate: float, metric: str, *, is_needed: object) -> dict[str, Any] | None:
    """Return the threshold of a false-match rate, its true-match rate and its source; None if there is no file."""
    if not file.is_file() and not is_needed:
        return None
    try:
        found = read_json(file)
    except (OSError, TextError) as error:
        raise ThresholdError(f"cannot read a threshold from {file} ({error}); evaluate again") from error
    if not isinstance(found, dict) or not found:
        raise ThresholdError(f"{file} has no thresholds of a protocol: evaluate again with TEST.ROC.ENABLED True")
    name = protocol or next(iter(found))
    if name not in found:
        raise ThresholdError(f"{file} has no protocol {name!r}; it has {', '.join(found)}")
    where = f"{name} in {file}"
    if isinstance(found[name], dict):
        _refuse_other_distances(found[name], metric, where)
    threshold, true_match_rate = _figures_at(found[name], match_rate_choice(rate), where)
    return {"threshold": threshold, "true_match_rate": true_match_rate, "source": f"{printable(name)} of {file}"}


def _figures_at(thresholds: Any, choice: str, where: str) -> tuple[float | None, float]:
    """Return the threshold and the true-match rate of a choice.

    Raises:
        ThresholdError: they are not there.
    """
    try:
        (point,) = (point for point in thresholds["points"] if point["choice"] == choice)
        threshold, rate = point["threshold"], float(point["true_match_rate"])
        if isinstance(threshold, bool) or not 0 <= rate <= 100 or not math.isfinite(threshold or 0):
            raise ValueError(threshold, rate)
        return None if threshold is None else float(threshold), rate
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ThresholdError(
            f"cannot read a threshold from {where}: it does not have the point {choice!r} with a threshold and a "
            "true_match_rate; evaluate again"
        ) from error


if __name__ == "__main__":
    main()
