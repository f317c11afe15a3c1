#!/usr/bin/env python
"""Compares backbones in the settings in which pre-training is measured, with the same seeds, and writes what they gain.

    transfer.py --backbones imagenet=pretrained/resnet50-19c8e357.pth own=pretrained/own.pth
        --settings supervised few_shot generalization --target Market1501 --source MSMT17 --output logs/transfer

Each run is one training by train_net.py in a folder of its own; --jobs of them run at once. The same command goes on
after an interruption: finished runs are read, and an unfinished one is resumed.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastreid.config import CfgNode, user_path
from fastreid.data import build_datasets
from fastreid.data.build import training_images
from fastreid.engine.finished import FINISHED, OTHER_WEIGHTS, state_of
from fastreid.engine.identity import flatten
from fastreid.engine.side_by_side import SideBySide
from fastreid.engine.transfer import RANDOM, SETTINGS, Comparison, TransferRun, refuse_own_keys, shared_keys
from fastreid.evaluation.gains import FIGURES, Gains, Result, refuse_to_lose
from fastreid.evaluation.results import write_json
from fastreid.modeling.backbones import build_backbone
from fastreid.utils.errors import Cancelled, UserError, reported_as
from fastreid.utils.files import atomic_write
from fastreid.utils.lock import folder_lock
from fastreid.utils.manifest import sha256_of
from fastreid.utils.optional import optional
from fastreid.utils.text import TextError, read_json
from fastreid.utils.timing import format_seconds
from train_net import argument_parser as train_net_parser
from train_net import setup_cfg

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
TRAIN_NET = Path(__file__).with_name("train_net.py")
RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9)
RECORD = "transfer.json"
# Keys that may change between the sessions of a comparison: figures do not depend on them.
_FREE = (
    "MODEL.DEVICE", "DATASETS.ROOT", "DATALOADER.NUM_WORKERS", "DATALOADER.TIMEOUT", "OUTPUT_DIR",
    "SOLVER.CHECKPOINT_PERIOD", "SOLVER.KEEP_CHECKPOINTS", "MODEL.BACKBONE.PRETRAIN_PATH", "MODEL.WEIGHTS",
)  # fmt: skip
_KEY = re.compile(r"[A-Z]+(\.[A-Z][A-Z0-9_]*)+|OUTPUT_DIR|IMPORTS|DETERMINISTIC|CUDNN_BENCHMARK")
CONSOLE = "console.txt"
_LAST_LINES = 12


@dataclass(frozen=True, eq=False)
class Planned:
    """A run with its name in messages, the arguments of its train_net.py, and the config that follows from them."""

    title: str
    run: TransferRun
    words: list[str]
    cfg: CfgNode


def _named_path(text: str) -> tuple[str, str]:
    """Return the two halves of NAME=PATH; `random` and `none` are no paths."""
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH")
    return name, path if path in RANDOM else str(user_path(path))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="KEY VALUE pairs, for all runs, come last: SOLVER.MAX_EPOCH 60 DATASETS.ROOT data",
    )
    add = parser.add_argument
    add(
        "--backbones",
        nargs="+",
        type=_named_path,
        required=True,
        metavar="NAME=PATH",
        help="files for MODEL.BACKBONE.PRETRAIN_PATH; NAME=random is random initialisation; the first is compared with",
    )
    add("--settings", nargs="+", required=True, metavar="SETTING", help=f"of {', '.join(SETTINGS)}")
    add("--target", required=True, metavar="NAME", help="the data set on which all runs are tested")
    add("--source", nargs="+", default=[], metavar="NAME", help="where adaptation and generalization train first")
    add(
        "--ratios",
        nargs="+",
        type=float,
        default=RATIOS,
        metavar="SHARE",
        help="shares of the people (small_scale) or of the images of each (few_shot)",
    )
    add("--seeds", type=int, default=3, metavar="N", help="number of seeds, from 1 (default: %(default)s)")
    add(
        "--config-file",
        type=user_path,
        default=CONFIGS / "Base-AGW.yml",
        metavar="RECIPE",
        help="with labels (default: Base-AGW.yml)",
    )
    add(
        "--unsupervised-config-file",
        type=user_path,
        default=CONFIGS / "unsupervised/cluster_contrast.yml",
        metavar="RECIPE",
        help="without labels (default: cluster_contrast.yml)",
    )
    add("--import", dest="imports", action="append", default=[], metavar="FILE", help="as of train_net.py")
    add("--num-gpus", type=int, default=1, metavar="N", help="processes of each run")
    add("--jobs", type=int, default=1, metavar="N", help="runs that are trained at once (default: %(default)s)")
    add("--output", type=user_path, default=Path("logs/transfer"), metavar="DIR", help="default: %(default)s")
    add("--dry-run", action="store_true", help="check everything, list the runs and stop")
    return parser  # fmt: skip


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return options, and KEY VALUE pairs, which begin with the first word that is the name of a key.

    Raises:
        UserError: a key has no value.
    """
    first = next((index for index, word in enumerate(words) if _KEY.fullmatch(word)), len(words))
    options, pairs = list(words[:first]), list(words[first:])
    if len(pairs) % 2:
        raise UserError(f"KEY VALUE pairs come last, and {pairs[-1]} has no value")
    return options, pairs


def plan(args: argparse.Namespace, pairs: Sequence[str]) -> list[Planned]:
    """Return all runs; their configs are read as train_net.py does.

    Raises:
        UserError: options contradict each other, a file is missing or does not fit, a key or a data set is wrong.
    """
    names = [name for name, _ in args.backbones]
    if len(set(names)) < len(names):
        raise UserError(f"two backbones have the same name: {', '.join(names)}")
    comparison = Comparison(
        dict(args.backbones), args.settings, args.target, args.source, args.ratios, args.seeds, args.output
    )
    refuse_own_keys(pairs)
    if args.jobs < 1:
        raise UserError(f"--jobs is the number of runs that are trained at once, 1 or more, got {args.jobs}")
    if args.num_gpus < 1:
        raise UserError(f"--num-gpus is the number of processes of each run, 1 or more, got {args.num_gpus}")
    if args.output.exists() and not args.output.is_dir():
        raise UserError(f"--output {args.output} is a file: name a folder")
    for name, path in args.backbones:
        if path not in RANDOM and not Path(path).is_file():
            what = f"{path} is a folder, no file" if Path(path).is_dir() else f"there is no file {path}"
            raise UserError(f"--backbones {name}: {what}; {name}=random is random initialisation")
    imports = [word for file in args.imports for word in ("--import", file)]

    def arguments(recipe: Path, *keys: str) -> list[str]:
        return ["--config-file", str(recipe), "--resume", "--num-gpus", str(args.num_gpus), *imports, *keys, *pairs]

    shared = shared_keys(*(_config(arguments(file)) for file in (args.config_file, args.unsupervised_config_file)))
    planned, runs = [], list(comparison.runs())
    for number, run in enumerate(runs, 1):
        keys = run.keys | {"OUTPUT_DIR": str(run.folder)} | ({} if run.with_labels else shared)
        pairs_of_run = (str(word) for pair in keys.items() for word in pair)
        words = arguments(args.config_file if run.with_labels else args.unsupervised_config_file, *pairs_of_run)
        planned.append(Planned(f"[{number}/{len(runs)}] {run.title}", run, words, _config(words)))
    return planned


def _config(words: Sequence[str]) -> CfgNode:
    return setup_cfg(train_net_parser().parse_args(words))


def check(planned: Sequence[Planned]) -> None:
    """Read the data sets, and load each backbone, so that a mistake is not found after hours.

    Raises:
        UserError: one of them is missing or does not fit.
    """
    for cfg in {tuple(one.cfg.DATASETS.NAMES): one.cfg for one in planned}.values():
        names = [*cfg.DATASETS.NAMES, *cfg.DATASETS.TESTS]
        for name, dataset in zip(names, build_datasets(cfg, names), strict=True):
            _ = dataset.train, dataset.gallery  # each list is read on first access
            if name in cfg.DATASETS.TESTS and not dataset.query:
                raise UserError(f"--target {name} has no query images: nothing can be tested on it")
    subsets = {(*one.cfg.DATASETS.NAMES, one.cfg.DATASETS.SUBSET.MODE, one.run.ratio): one.cfg for one in planned}
    for cfg in subsets.values():
        training_images(cfg)  # a subset may be empty
    for cfg in {one.run.backbone: one.cfg for one in planned if one.cfg.MODEL.BACKBONE.PRETRAIN}.values():
        build_backbone(cfg)
    for one in planned:
        _check_record(one)
        if state_of(one.run.folder) == FINISHED:
            _figures_of(one)


def _record_of(one: Planned) -> dict[str, Any]:
    config = {key: value for key, value in flatten(one.cfg).items() if key not in _FREE}
    path = one.cfg.MODEL.BACKBONE.PRETRAIN_PATH if one.cfg.MODEL.BACKBONE.PRETRAIN else ""
    return {"config": config, "backbone": sha256_of(path) if path else None}


def _check_record(one: Planned) -> None:
    """Check that the run in a folder, if there is one, is this one."""
    path = one.run.folder / RECORD
    if not path.is_file():
        return
    before, now = _content_of(path), _record_of(one)
    if not now.keys() <= before.keys() or not isinstance(before["config"], dict):
        raise _damaged(path, f"does not have {' and '.join(now)} of a run")
    changed = [key for key, value in now["config"].items() if before["config"].get(key, value) != value]
    if changed or before["backbone"] != now["backbone"]:
        what = f"{changed[0]} was {before['config'][changed[0]]!r}" if changed else "its backbone was another file"
        raise UserError(
            f"{one.run.folder} has a run of another comparison ({what}): give another --output, or delete the folder"
        )


def _content_of(path: Path) -> dict[str, Any]:
    """Return the content of a file of a run; a damaged file is an error."""
    try:
        content = read_json(path)
    except (TextError, FileNotFoundError) as error:
        raise UserError(f"{error}: delete the folder {path.parent} to repeat the run") from error
    if not isinstance(content, dict):
        raise _damaged(path, "is no record of a run")
    return content


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} is damaged, as it {what}: delete the folder {path.parent} to repeat the run")


def _figures_of(one: Planned) -> dict[str, float]:
    """Return the figures in results.json, which has one protocol."""
    path = one.run.folder / "results.json"
    protocols = list(_content_of(path).values())
    figures = protocols[0] if len(protocols) == 1 and isinstance(protocols[0], dict) else {}
    found: dict[str, Any] = {name: figures.get(name) for name in FIGURES}
    if not all(type(value) in (int, float) and math.isfinite(value) for value in found.values()):
        raise _damaged(path, f"does not have {' and '.join(FIGURES)} of one data set")
    return found


def finished(one: Planned) -> Result | None:
    """Return the figures of a finished run, or None.

    Raises:
        UserError: it started from a model that has changed since, or its results.json is damaged.
    """
    state = state_of(one.run.folder, one.run.start)
    if state == OTHER_WEIGHTS:
        raise UserError(f"{one.run.folder} started from another {one.run.start}: delete the folder to repeat the run")
    if state != FINISHED:
        return None
    run = one.run
    return Result(run.setting, run.ratio, run.backbone, run.seed, _figures_of(one))


def start(one: Planned, running: SideBySide) -> None:
    """Start the process that trains a run; its output is in console.txt.

    Raises:
        UserError: the run that it starts from is not finished.
    """
    folder = one.run.folder
    if one.run.start and not one.run.start.is_file():
        raise UserError(f"the run {one.run.title} cannot start: the run that it starts from has failed")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RECORD, _record_of(one))
    running.start(one, [sys.executable, str(TRAIN_NET), *one.words], folder / CONSOLE)


def result_of(one: Planned, status: int) -> Result:
    """Return the figures of a run whose process has ended.

    Raises:
        UserError: it ended with an error, and the message has the end of its output.
    """
    result = finished(one) if status == 0 else None
    if result is None:
        console = one.run.folder / CONSOLE
        lines = console.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
        raise UserError(
            f"the run {one.run.title} ended with status {status}, and the same command resumes it. The end of "
            f"{console}:\n" + "\n".join(lines)
        )
    return result


def write(results: Sequence[Result], args: argparse.Namespace) -> Gains:
    """Write results.json and results.md with the results so far, and return the gains in them."""
    gains = Gains(results, [name for name, _ in args.backbones])
    content = {
        "target": args.target,
        "sources": list(args.source),
        "backbones": {
            name: {"path": path, "sha256": None if path in RANDOM else sha256_of(path)} for name, path in args.backbones
        },
        "runs": [{**vars(result)} for result in results],
        "summary": gains.summary(),
    }
    write_json(args.output / "results.json", content)
    with atomic_write(args.output / "results.md") as file:
        file.write(f"{gains.table()}\n")
    return gains


def conclude(results: Sequence[Result], args: argparse.Namespace) -> None:
    """Write all results, draw ratios.png if there are ratios, and print the table."""
    gains = write(results, args)
    print(f"\n{gains.table()}\n\nThe table is in {args.output / 'results.md'}")
    if optional("matplotlib.figure", "no plot is drawn") and gains.draw(args.output / "ratios.png", "supervised"):
        print(f"The plot is {args.output / 'ratios.png'}")


def announce(one: Planned, *, is_finished: bool) -> None:
    """Print the name, the state and the folder of a run."""
    state = "finished" if is_finished else "unfinished" if (one.run.folder / RECORD).exists() else "new"
    print(f"{one.title}: {state}, {one.run.folder}", flush=True)


def run_all(planned: Sequence[Planned], args: argparse.Namespace) -> list[str]:
    """Read or train all runs, write the results after each, and print them.

    A run that fails (an untrained backbone may give no clusters) does not keep the others from being trained.

    Returns:
        Names of the runs that failed, or could not start as another one failed.
    """
    results = {one: result for one in planned if (result := finished(one))}
    for one in results:
        announce(one, is_finished=True)
    waiting, failed = [one for one in planned if one not in results], []
    unfinished, known, begin = list(waiting), len(results), time.monotonic()
    with SideBySide(args.jobs, gpus=args.num_gpus) as running:
        while unfinished:
            ready = None if running.is_full else _next_of(waiting, unfinished)
            one, status = (ready, 0) if ready else running.wait()
            try:
                if ready:
                    waiting.remove(one)
                    announce(one, is_finished=False)
                    start(one, running)
                    continue
                results[one] = result_of(one, status)
            except UserError as error:
                failed.append(one.run.title)
                print(f"{error}\n", file=sys.stderr)
            unfinished.remove(one)
            # Those that run are half done on average.
            left = len(unfinished) - len(running) / 2
            eta = format_seconds((time.monotonic() - begin) / (len(planned) - known - left) * left)
            if one in results:
                figures = " / ".join(f"{results[one].figures[name]:.1f}" for name in FIGURES)
                print(f"{one.title}: {' / '.join(FIGURES)} {figures} %, eta {eta}", flush=True)
                write([results[one] for one in planned if one in results], args)
    if results:
        conclude([results[one] for one in planned if one in results], args)
    return failed


def _next_of(waiting: Sequence[Planned], unfinished: Sequence[Planned]) -> Planned | None:
    """Return the first run that starts from none that is still to be trained."""
    folders = {one.run.folder for one in unfinished}
    return next((one for one in waiting if one.run.start is None or one.run.start.parent not in folders), None)


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line `words` (default: that of the process)."""
    with reported_as("transfer"):
        options, pairs = split_words(sys.argv[1:] if words is None else words)
        args = _parser().parse_args(options)
        planned = plan(args, pairs)
        check(planned)
        refuse_to_lose(args.output / "results.json", [one.run.key for one in planned])
        if args.dry_run:
            for one in planned:
                announce(one, is_finished=finished(one) is not None)
            return
        with folder_lock(args.output):  # each run locks its own folder below
            try:
                failed = run_all(planned, args)
            except Cancelled:
                print("transfer: stopped; the same command goes on", file=sys.stderr)
                raise
        if failed:
            raise UserError(
                f"{len(failed)} of {len(planned)} runs failed ({'; '.join(failed[:3])}{' …' if failed[3:] else ''}): "
                "their errors are above, and the same command tries them again"
            )


if __name__ == "__main__":
    main()
