#!/usr/bin/env python
"""Joins the two stages of a run into one table and one self-contained HTML page.

python tools/make_report.py --stage1 logs/quickstart/stage1 --stage2 logs/quickstart/stage2 \
    --output logs/quickstart/report.html --results logs/quickstart/results.json
"""

from __future__ import annotations

import argparse
import sys

from fastreid.evaluation.report import ReportError, make_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage1", required=True, help="output folder of stage 1")
    parser.add_argument("--stage2", required=True, help="output folder of stage 2")
    parser.add_argument("--output", required=True, help="the HTML page to write")
    parser.add_argument("--results", required=True, help="JSON file for the figures of both stages")
    args = parser.parse_args()
    try:
        print(make_report(args.stage1, args.stage2, args.output, args.results))
    except ReportError as error:
        sys.exit(f"make_report: {error}")
    print(f"\nThe report is in {args.output}")


if __name__ == "__main__":
    main()
