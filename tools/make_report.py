#!/usr/bin/env python
"""Joins the results of one or several runs into one table and one self-contained HTML page.

python tools/make_report.py --stage1 logs/quickstart/stage1 --stage2 logs/quickstart/stage2 \
    --output logs/quickstart/report.html --results logs/quickstart/results.json
python tools/make_report.py --run "my baseline=logs/baseline" --run "my method=logs/method" \
    --output report.html --results results.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fastreid.config import user_path
from fastreid.evaluation.report import ReportError, make_report
from fastreid.utils.errors import reported_as


def _named_folder(text: str) -> tuple[str, Path]:
    """Return the two halves of NAME=FOLDER."""
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FOLDER")
    return name, user_path(folder)


def _folders(args: argparse.Namespace) -> dict[str, Path]:
    """Return {name: folder} of all runs in their order."""
    stages = [(name, folder) for name, folder in (("stage1", args.stage1), ("stage2", args.stage2)) if folder]
    runs = stages + args.run
    if len(dict(runs)) < len(runs):
        raise ReportError(f"two runs have the same name: {', '.join(name for name, _ in runs)}")
    return dict(runs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--run", type=_named_folder, action="append", default=[], metavar="NAME=FOLDER", help="a run; may be repeated")
    add("--stage1", type=user_path, metavar="FOLDER", help="short for --run stage1=FOLDER")
    add("--stage2", type=user_path, metavar="FOLDER", help="short for --run stage2=FOLDER")
    add("--output", type=user_path, required=True, metavar="FILE", help="the HTML page to write")
    add("--results", type=user_path, required=True, metavar="FILE", help="JSON file for the figures of all runs")
    return parser


def main() -> None:
    """Run the command line."""
    with reported_as("make_report"):
        args = _parser().parse_args()
        print(make_report(_folders(args), args.output, args.results))
        print(f"\nThe report is in {args.output}")


if __name__ == "__main__":
    main()
