#!/usr/bin/env python
"""Joins the results of one or several runs into one table and one self-contained HTML page.

python tools/make_report.py logs/baseline logs/method
python tools/make_report.py --run "my baseline=logs/baseline" --run "my method=logs/method" --output report.html
python tools/make_report.py --stage1 logs/quickstart/stage1 --stage2 logs/quickstart/stage2 \
    --output logs/quickstart/report.html --results logs/quickstart/results.json

Runs are compared with the first one, in the order stages, folders, --run.
"""

from __future__ import annotations

import argparse
import os
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
    runs = [(name, folder) for name, folder in (("stage1", args.stage1), ("stage2", args.stage2)) if folder]
    runs += [(os.path.basename(os.path.abspath(folder)), folder) for folder in args.folders]
    runs += args.run
    if len(dict(runs)) < len(runs):
        names = ", ".join(name for name, _ in runs)
        raise ReportError(f"two runs have the same name: {names}; give them names with --run NAME=FOLDER")
    return dict(runs)


def _files(args: argparse.Namespace, folders: dict[str, Path]) -> tuple[Path, Path]:
    """Return the files of the page and the figures, whose defaults are beside the first run."""
    beside = [Path(os.path.abspath(folder)).parent for folder in folders.values()] or [Path()]
    output = args.output or Path(os.path.relpath(beside[0] / "report.html"))
    results = args.results or output.with_suffix(".json")
    if os.path.abspath(output) == os.path.abspath(results):
        raise ReportError(f"the page and the figures cannot both be written to {output}; give another --results")
    for path, suffixes in ((output, (".html", ".htm")), (results, (".json",))):
        if path.suffix.lower() not in suffixes:
            raise ReportError(f"{path}: the page is an .html file, and the figures are a .json file")
    return output, results


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folders", type=user_path, nargs="*", metavar="RUN", help="OUTPUT_DIR of a run, which is named as its folder")
    add(
        "--run",
        type=_named_folder,
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="a run with another name; may be repeated",
    )
    add("--stage1", type=user_path, metavar="FOLDER", help="short for --run stage1=FOLDER")
    add("--stage2", type=user_path, metavar="FOLDER", help="short for --run stage2=FOLDER")
    add(
        "--output",
        type=user_path,
        metavar="FILE",
        help="HTML page to write (default: report.html beside the first run)",
    )
    add(
        "--results", type=user_path, metavar="FILE", help="JSON file for all figures (default: as --output, with .json)"
    )
    return parser


def main() -> None:
    """Run the command line."""
    with reported_as("make_report"):
        args = _parser().parse_intermixed_args()
        folders = _folders(args)
        output, results = _files(args, folders)
        print(make_report(folders, output, results))
        print(f"\nThe report is in {output}, and its figures in {results}")


if __name__ == "__main__":
    main()
