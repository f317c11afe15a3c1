#!/usr/bin/env python
"""Makes a table of your own images, for DATASETS.NAMES "('csv:people.csv',)".

python tools/make_table.py --root photos --output people.csv
python tools/make_table.py --root photos --pattern "{camera}/{person}/{name}" --test-people 0.3 --output people.csv
python tools/make_table.py --video door.mp4 --boxes door.csv --video yard.mp4 --boxes yard.csv --crops crops \
    --output people.csv

Without --pattern, the meaning of the folders and file names is inferred, and printed with the reason.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastreid.config import user_path
from fastreid.data.check import counts_table
from fastreid.data.own_tables import read_csv
from fastreid.data.scan import scan
from fastreid.data.tables import (
    PathPattern,
    PatternError,
    Table,
    TableOptions,
    crop_videos,
    infer_pattern,
    make_table,
    write_table,
)
from fastreid.data.tables.video import CROPS
from fastreid.engine.summary import valid_queries_table
from fastreid.utils.display_text import printable
from fastreid.utils.errors import reported_as
from fastreid.utils.lock import path_lock

_SHOWN = 5


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--root", type=user_path, metavar="DIR", help="folder of the images")
    add(
        "--pattern",
        metavar="TEXT",
        help='what the parts of a path below --root mean: "{camera}/{person}/{name}", "{person}_c{camera:d}*"; fields '
        "person, camera, view, split, with :d for digits only; {name} and * are any text",
    )
    add(
        "--test-people",
        type=float,
        metavar="SHARE",
        help=f"share of the people to test (default: {TableOptions.test_people})",
    )
    add(
        "--seed",
        type=int,
        help=f"another seed chooses other people and queries (default: {TableOptions.seed})",
    )
    add("--output", type=user_path, required=True, metavar="FILE", help="the CSV file")
    add("--overwrite", action="store_true", help="replace an output with another content")
    video = parser.add_argument_group("videos", "each video is a camera; boxes are cut out to files first")
    video.add_argument("--video", type=user_path, action="append", default=[], metavar="FILE", help="may be repeated")
    video.add_argument(
        "--boxes",
        type=user_path,
        action="append",
        default=[],
        metavar="FILE",
        help="CSV file of the boxes of each video: frame,person,left,top,right,bottom or …,width,height, in pixels",
    )
    video.add_argument("--crops", type=user_path, metavar="DIR", help="folder for the files that are cut out")
    video.add_argument("--every", type=int, metavar="N", help="read every N-th frame (default: 1)")
    video.add_argument("--first-frame", type=int, metavar="N", help="number of the first frame in --boxes (default: 0)")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the command line `argv` (default: that of the process)."""
    parser = _parser()
    with reported_as("make_table"):
        args = parser.parse_args(argv)
        if bool(args.root) == bool(args.video):
            parser.error("give --root for a folder of images, or --video with --boxes and --crops")
        if args.video and not (args.boxes and args.crops) or args.root and (args.boxes or args.crops):
            parser.error("--video, --boxes and --crops belong together")
        if args.root and (args.every is not None or args.first_frame is not None):
            parser.error("--every and --first-frame are for --video")
        if args.video and args.pattern:
            parser.error("--pattern is for --root: the files that are cut out of videos have their own")
        logging.basicConfig(level=logging.WARNING, format="! %(message)s", stream=sys.stdout)
        options = TableOptions(**_given(args, "test_people", "seed"))
        root = args.root
        if args.video:
            root = args.crops
            with path_lock(root):
                counts = crop_videos(args.video, args.boxes, root, **_given(args, "every", "first_frame"))
            print(
                f"cut out into {root}: {', '.join(f'{count:,} images of {camera}' for camera, count in counts.items())}"
            )
        table = _make(root, CROPS if args.video else args.pattern, options)
        _refuse_unused(table, _given(args, "test_people", "seed"))
        _report(table, root, args.output, args.overwrite)


def _given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return the options that are on the command line; the others have the defaults of the library."""
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def _refuse_unused(table: Table, given: Mapping[str, Any]) -> None:
    """Check that options had an effect on the table.

    Raises:
        PatternError: the folders say who is tested, or which images are queries.
    """
    if "test_people" in given and not table.splits_people:
        raise PatternError("--test-people has no effect: the {split} of the pattern says who is tested; leave it out")
    if "seed" in given and not table.draws_queries:
        raise PatternError(
            "--seed has no effect: the {split} of the pattern says which images are queries; leave it out"
        )


def _make(root: Path, pattern: str | None, options: TableOptions) -> Table:
    """Make the table of the images below a folder, and print the pattern."""
    if not root.is_dir():
        raise PatternError(f"there is no folder {root.absolute()}")
    found = scan(root.absolute())
    found.log()
    paths = [Path(os.path.relpath(path, found.home)).as_posix() for path in found.images]
    if not paths:
        raise PatternError(f"no images below {root}")
    if pattern is None:
        inferred = infer_pattern(paths)
        pattern = inferred.text
        print(f"pattern: {printable(pattern)}\n  inferred: {printable(inferred.reason)}\n  --pattern says it otherwise")
    else:
        print(f"pattern: {pattern}")
    return make_table(paths, PathPattern(pattern), options)


def _report(table: Table, root: Path, output: Path, overwrite: bool) -> None:
    """Write the table, read it as a training does, and print its counts."""
    for note in table.notes:
        print(f"! {note}")
    if table.unmatched:
        shown = ", ".join(map(printable, table.unmatched[:_SHOWN]))
        print(f"! {len(table.unmatched):,} images do not fit the pattern and are left out: {shown}")
    with path_lock(output):
        written = write_table(table, root.absolute(), output.absolute(), overwrite=overwrite)
    dataset = read_csv(output)
    dataset.name = f"csv:{output}"
    print(f"\n{counts_table([dataset], [dataset])}\n\n{valid_queries_table([dataset])}\n")
    print(f"{output} {'is written' if written else 'has this content already'}. Check it:")
    print(f"  python tools/check_dataset.py csv:{output}")


if __name__ == "__main__":
    main()
