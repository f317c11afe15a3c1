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
from pathlib import Path

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
    add("--test-people", type=float, default=0.3, metavar="SHARE", help="share of the people to test (default: 0.3)")
    add("--seed", type=int, default=0, help="another seed chooses other people and queries (default: 0)")
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
    video.add_argument("--every", type=int, default=1, metavar="N", help="read every N-th frame (default: 1)")
    video.add_argument(
        "--first-frame", type=int, default=0, metavar="N", help="number of the first frame in --boxes (default: 0)"
    )
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
        if args.video and args.pattern:
            parser.error("--pattern is for --root: the files that are cut out of videos have their own")
        logging.basicConfig(level=logging.WARNING, format="! %(message)s", stream=sys.stdout)
        options = TableOptions(test_people=args.test_people, seed=args.seed)
        root = args.root
        if args.video:
            root = args.crops
            counts = crop_videos(args.video, args.boxes, root, every=args.every, first_frame=args.first_frame)
            print(
                f"cut out into {root}: {', '.join(f'{count:,} images of {camera}' for camera, count in counts.items())}"
            )
        _report(_make(root, CROPS if args.video else args.pattern, options), root, args.output, args.overwrite)


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
    written = write_table(table, root.absolute(), output.absolute(), overwrite=overwrite)
    dataset = read_csv(output)
    dataset.name = f"csv:{output}"
    print(f"\n{counts_table([dataset], [dataset])}\n\n{valid_queries_table([dataset])}\n")
    print(f"{output} {'is written' if written else 'has this content already'}. Check it:")
    print(f"  python tools/check_dataset.py csv:{output}")


if __name__ == "__main__":
    main()
