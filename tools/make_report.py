#!/usr/bin/env python
"""Joins the two stages of a run into one table and one self-contained HTML page.

python tools/make_report.py --stage1 logs/quickstart/stage1 --stage2 logs/quickstart/stage2 \
    --output logs/quickstart/report.html --results logs/quickstart/results.json
"""

from __future__ import annotations

import argparse

from fastreid.config import user_path
from fastreid.evaluation.report import make_report
from fastreid.utils.errors import reported_as


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage1", type=user_path, required=True, help="output folder of stage 1")
    parser.add_argument("--stage2", type=user_path, required=True, help="output folder of stage 2")
    parser.add_argument("--output", type=user_path, required=True, help="the HTML page to write")
    parser.add_argument("--results", type=user_path, required=True, help="JSON file for the figures of both stages")
    with reported_as("make_report"):
        args = parser.parse_args()
        print(make_report(args.stage1, args.stage2, args.output, args.results))
        print(f"\nThe report is in {args.output}")


if __name__ == "__main__":
    main()
