#!/usr/bin/env python
"""Scores descriptors that any program wrote: evaluate_features.py --query q.npz --gallery g.npz"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from tabulate import tabulate

from fastreid.evaluation.feature_files import FeatureFileError, read_features
from fastreid.evaluation.fused import MEMORY_BUDGET, METRICS
from fastreid.evaluation.matching import NoValidQueryError
from fastreid.evaluation.results import write_json
from fastreid.evaluation.score import score_features


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Files: .npz or .safetensors with features [N, D], pids [N] and camids [N]; or .npy with the "
        "features, and a .csv of the same name with columns pid and camid.",
    )
    add = parser.add_argument
    add("--query", required=True, metavar="FILE")
    add("--gallery", required=True, metavar="FILE")
    add("--metric", choices=METRICS, default="cosine")
    add("--memory-budget", type=float, default=MEMORY_BUDGET, metavar="MIB", help="beside the features")
    add("--output", type=Path, metavar="FILE", help="write the figures as JSON, too")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the command line `argv` (default: the process's own)."""
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        query, gallery = read_features(args.query), read_features(args.gallery)
        ids = query.pids, gallery.pids, query.camids, gallery.camids
        options = {"metric": args.metric, "memory_budget": args.memory_budget}
        figures = score_features(query.rows, gallery.rows, *ids, **options)
    except (FeatureFileError, NoValidQueryError, ValueError) as error:
        sys.exit(f"evaluate_features: error: {error}")
    print(tabulate([figures], headers="keys", floatfmt=".2f"))
    if args.output:
        write_json(args.output, figures)


if __name__ == "__main__":
    main()
