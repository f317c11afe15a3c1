#!/usr/bin/env python
"""Compares a data set on disk with the published sizes.

check_dataset.py NAME [DATASETS.ROOT FOLDER]
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import zlib
from pathlib import Path

from fastreid.config import ConfigError, check_ranges, get_cfg, user_path
from fastreid.data import build_datasets, datasets_root
from fastreid.data.benchmarks import BENCHMARK_OF
from fastreid.data.benchmarks.ag_reid import read_attributes
from fastreid.data.check import (
    contact_sheet,
    counts_table,
    list_checksums,
    paths_of,
    protocols_named,
    unlabelled_note,
    unreadable,
    with_distinct_training,
)
from fastreid.engine.summary import attributes_table, valid_queries_table
from fastreid.utils.errors import reported_as
from fastreid.utils.files import check_output, save_picture
from fastreid.utils.lock import path_lock
from fastreid.utils.user_code import import_file

# What it reads of the config.
KEYS = ("DATASETS.ROOT", "DATASETS.SKIP_MISSING", "DATASETS.EXCLUDE_SOURCES", "IMPORTS")
_LONGEST_NAME = 50  # characters, of up to four bytes
SHEET_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add(
        "name",
        metavar="NAME",
        help="a benchmark (all its protocols), a protocol, csv:FILE, folder: or images:FOLDER",
    )
    add("--import", dest="imports", action="append", default=[], metavar="FILE", help="Python file to import first")
    add("--contact-sheet", type=user_path, metavar="FILE", help="default: logs/check_dataset/NAME.jpg")
    add("--read-images", action="store_true", help="also decode every image")
    add("--attributes", type=user_path, metavar="FILE", help="also read AG-ReID's attributes from this .mat file")
    add("opts", nargs="*", metavar="KEY VALUE", help="config keys, such as DATASETS.ROOT datasets")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv` (default: that of the process) and return the exit status."""
    parser = _parser()
    with reported_as("check_dataset"):
        args = parser.parse_intermixed_args(argv)
        if args.contact_sheet and args.contact_sheet.suffix.lower() not in SHEET_SUFFIXES:
            parser.error(f"--contact-sheet {args.contact_sheet}: name a {', '.join(SHEET_SUFFIXES)} file")
        logging.basicConfig(level=logging.WARNING, format="! %(message)s", stream=sys.stdout)
        logging.getLogger("fastreid.data").setLevel(logging.INFO)  # it logs which files are skipped
        return _check(args)


def _check(args: argparse.Namespace) -> int:
    cfg = get_cfg()
    cfg.merge_from_list(args.opts)
    check_ranges(cfg)
    for key in args.opts[::2]:
        if key not in KEYS:
            raise ConfigError(f"{key} has no effect on checking a data set: only {', '.join(KEYS)} have")
    for file in (*args.imports, *cfg.IMPORTS):
        import_file(file)
    root, names = datasets_root(cfg), protocols_named(args.name)
    if names[0] in BENCHMARK_OF:
        print(f"{BENCHMARK_OF[names[0]].home(root)}\n")
    datasets = build_datasets(cfg, names)
    print(f"\n{counts_table(with_distinct_training(datasets), datasets)}\n")
    unranked = [dataset for dataset in datasets if dataset.attribute_names and not dataset.gallery]
    ranked = [dataset for dataset in datasets if dataset not in unranked]
    for table, those in ((valid_queries_table, ranked), (attributes_table, unranked)):
        if those:
            print(f"{table(those)}\n")
    if note := unlabelled_note(datasets):
        print(f"{note}\n")
    if sums := list_checksums(names, root):
        print(f"SHA-256 of the list files, line endings aside:\n{sums}\n")
    if args.attributes:
        for split, people in read_attributes(args.attributes).items():
            attributes = sorted({key for values in people.values() for key in values})
            print(f"{args.attributes}, {split}: {len(people):,} people, attributes {', '.join(attributes)}")
    problems = unreadable(datasets) if args.read_images else []
    if args.read_images:
        print("\n".join(problems) or "every image can be read")
    sheet = args.contact_sheet or Path("logs/check_dataset") / f"{_file_name(args.name)}.jpg"
    check_output(sheet, paths_of(datasets))
    sheet.parent.mkdir(parents=True, exist_ok=True)
    with path_lock(sheet, wait=True):
        save_picture(contact_sheet(datasets[0]), sheet, quality=90)
    print(f"contact sheet: {sheet}")
    return 1 if problems else 0


def _file_name(name: str) -> str:
    """A name of a data set as that of a file; of a long one, which may have folders, the end and a checksum."""
    plain = "".join(c if c.isalnum() else "_" for c in name)
    long = len(plain) > _LONGEST_NAME
    return f"{zlib.crc32(os.fsencode(name)):08x}{plain[-_LONGEST_NAME:]}" if long else plain


if __name__ == "__main__":
    if status := main():
        sys.exit(status)
