#!/usr/bin/env python
"""Renders a substitute for a benchmark.

tools/render_benchmark.py --root datasets --name CARGO
"""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from fastreid.config import user_path
from fastreid.rendering import DOMAINS, RenderConfig, RenderRequest, render_benchmark
from fastreid.rendering.captions import write_captions
from fastreid.rendering.contact_sheet import contact_sheet
from fastreid.utils.errors import UserError, reported_as
from fastreid.utils.files import check_output, save_picture
from fastreid.utils.lock import path_lock


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--root", type=user_path, default="datasets", help="folder in which the benchmark's own folder is made")
    add("--name", default="CARGO", help="benchmark whose layout is written")
    add("--domain", default="plain", help=f"look of its places, cameras and clothes: {', '.join(DOMAINS)}")
    add("--train-ids", type=int, default=300, help="people to train on")
    add("--test-ids", type=int, default=100, help="other people to test on")
    add("--images-per-id", type=int, default=10, help="images of each, as many from every view")
    add("--seed", type=int, default=0, help="decides every picture")
    add("--workers", type=int, help="processes; all usable cores if not given")
    add("--overwrite", action="store_true", help="replace one rendered with other parameters, and other captions")
    add("--contact-sheet", type=user_path, metavar="FILE", help="draw people x cameras into FILE as well")
    add("--captions", type=user_path, metavar="FILE", help="describe every image in FILE (JSON lines) as well")
    knobs = parser.add_argument_group("how hard it is (see fastreid's RenderConfig)")
    for field in fields(RenderConfig):
        flag = f"--{field.name.replace('_', '-')}"
        knobs.add_argument(flag, type=type(field.default), default=field.default, help=" ")
    return parser


def _sheet_people(request: RenderRequest) -> list[int]:
    """The first look-alike group and one person of each of the next three."""
    group = request.config.lookalike_group
    people = [*range(1, group + 1), *(k * group + 1 for k in (1, 2, 3))]
    return [pid for pid in people if pid <= request.train_ids]


def main(argv: list[str] | None = None) -> None:
    """Run the command line `argv` (default: that of the process)."""
    with reported_as("render_benchmark"):
        _render(vars(_parser().parse_args(argv)))


def _check_outputs(folder: Path, captions: Path | None, sheet: Path | None) -> None:
    """Check that the two files would neither replace each other nor a file of the benchmark."""
    for option, file in (("--captions", captions), ("--contact-sheet", sheet)):
        if file is None:
            continue
        check_output(file)
        if file.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{option} {file} is in {folder}, which has the files of the benchmark only: name another")
    if captions and sheet and captions.resolve() == sheet.resolve():
        raise UserError(f"--captions and --contact-sheet are both {captions}: name two files")


@contextlib.contextmanager
def _errors_of_the_user() -> Iterator[None]:
    try:
        yield
    except (ValueError, FileExistsError) as error:
        if getattr(error, "errno", None):  # an error of the system
            raise
        raise UserError(str(error)) from error


def _render(args: dict[str, Any]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sheet, captions = args.pop("contact_sheet"), args.pop("captions")
    _check_outputs(args["root"] / args["name"], captions, sheet)
    knobs = {field.name: args.pop(field.name) for field in fields(RenderConfig)}
    with _errors_of_the_user():
        summary = render_benchmark(**args, config=RenderConfig(**knobs))
    images = ", ".join(f"{count} {split}" for split, count in summary.images.items())
    took = "already there" if summary.reused else f"rendered in {summary.seconds:.1f} s"
    print(f"{summary.folder}: {images} images, domain {summary.request.domain}, {took}")
    if captions is not None:
        with path_lock(captions, wait=True), _errors_of_the_user():
            count = write_captions(summary.request, summary.folder, captions, overwrite=args["overwrite"])
        print(f"{captions}: captions of {count} images")
    if sheet is not None:
        people = _sheet_people(summary.request)
        sheet.parent.mkdir(parents=True, exist_ok=True)
        with path_lock(sheet, wait=True):
            save_picture(contact_sheet(summary.request, people), sheet, quality=90)
        print(f"{sheet}: people {', '.join(map(str, people))} as every camera may see them")


if __name__ == "__main__":
    main()
