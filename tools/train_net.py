#!/usr/bin/env python
"""Trains or evaluates a model.

train_net.py --config-file FILE [--eval-only] [--verify] KEY VALUE …
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import secrets
from collections.abc import Sequence

from fastreid.config import CfgNode, check_ranges, get_cfg, imports_in, resolve_device
from fastreid.data.check import check_first_images, counts_table
from fastreid.engine import DefaultTrainer, build_for_evaluation, default_setup, launch
from fastreid.engine.evaluations import build_evaluation
from fastreid.engine.manifest import evaluation_manifest, names_of, splits_of
from fastreid.engine.memory import memory_summary
from fastreid.engine.report import write_report
from fastreid.engine.resuming import seed_of_run
from fastreid.engine.setup import release_output_folder, tool_argument_parser
from fastreid.engine.summary import model_summary, schedule_summary
from fastreid.evaluation import check_expected_results, verify_results
from fastreid.utils.errors import reported_as
from fastreid.utils.user_code import import_file

logger = logging.getLogger("fastreid.tools.train_net")
# The config is read before the log is set up; default_setup logs its messages, once for all processes.
logging.getLogger("fastreid.config.notices").addHandler(logging.NullHandler())


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the options that all training scripts have, and of --verify."""
    parser = tool_argument_parser()
    parser.add_argument(
        "--verify",
        action="store_true",
        help="compare the last results with TEST.EXPECTED_RESULTS; exit status 1 if they differ",
    )
    return parser


def setup_cfg(args: argparse.Namespace) -> CfgNode:
    """Merge defaults, config file, overlays and KEY VALUE pairs, freeze the config, and import user-defined files."""
    config_files = list(filter(None, [args.config_file, *args.overlay]))
    for file in (*imports_in(config_files, args.opts), *args.imports):  # they may add keys
        import_file(file)
    cfg = get_cfg()
    for path in config_files:
        cfg.merge_from_file(path)
    cfg.merge_from_list(args.opts)
    check_ranges(cfg)
    cfg.MODEL.DEVICE = resolve_device(cfg.MODEL.DEVICE)
    # Absolute paths, so that the config.yaml of the run works in any folder.
    cfg.IMPORTS = list(dict.fromkeys(os.path.abspath(os.path.expanduser(f)) for f in (*cfg.IMPORTS, *args.imports)))
    cfg.freeze()
    return cfg


def main(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Train or evaluate, verify the last results if asked to, and return them; {} for a dry run."""
    cfg = setup_cfg(args)
    default_setup(cfg, args)
    try:
        results = evaluate(cfg) if args.eval_only else train(cfg, args)
        if args.verify and (args.eval_only or not args.dry_run):
            verify_results(cfg, results)
        return results
    finally:
        release_output_folder(cfg)


def train(cfg: CfgNode, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Train, or print the summaries of a dry run."""
    trainer = DefaultTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    if args.dry_run:
        describe(cfg, trainer)
        return {}
    return trainer.train()


def evaluate(cfg: CfgNode) -> dict[str, dict[str, float]]:
    """Evaluate MODEL.WEIGHTS on DATASETS.TESTS, and write the report."""
    model = build_for_evaluation(cfg, DefaultTrainer)
    tests = functools.cache(lambda: DefaultTrainer.build_test_datasets(cfg))
    with evaluation_manifest(cfg, lambda: splits_of([], tests()), lambda: names_of([], tests())):
        results = DefaultTrainer.test(cfg, model, datasets=tests())
        if results:
            write_report(cfg)
        return results


def describe(cfg: CfgNode, trainer: DefaultTrainer) -> None:
    """Print the summaries of a dry run, after reading an image of each split."""
    alone = cfg.clone()
    alone.defrost()
    alone.DATALOADER.NUM_WORKERS = 0  # one image at a time
    load = functools.partial(trainer.build_feature_loader, alone)
    check_first_images(trainer.train_datasets, trainer.test_datasets, load)
    print(model_summary(trainer.bare_model))
    print(f"\n{counts_table(trainer.train_datasets, trainer.test_datasets)}")
    print(f"\n{build_evaluation(trainer.cfg).table(trainer.test_datasets)}\n")
    print(
        schedule_summary(
            trainer.schedule,
            max_epoch=trainer.max_epoch,
            iters_per_epoch=trainer.iters_per_epoch,
        )
    )
    print(f"\n{memory_summary(trainer)}")


def run(words: Sequence[str] | None = None) -> None:
    """Parse the command line and run ``main`` in the given number of processes.

    Args:
        words: the arguments (default: those of the process).
    """
    with reported_as("train_net"):
        args = argument_parser().parse_args(words)
        cfg = setup_cfg(args)
        check_expected_results(cfg, to_verify=args.verify)
        if cfg.MODEL.SEED < 0:  # drawn once for all processes
            drawn = seed_of_run(os.path.expanduser(cfg.OUTPUT_DIR)) if args.resume else None
            args.opts += ["MODEL.SEED", str(secrets.randbelow(2**31) if drawn is None else drawn)]
        device = cfg.MODEL.DEVICE
        machines = (args.num_gpus, args.num_machines, args.machine_rank, args.dist_url)
        launch(main, *machines, args=(args,), device=device, timeout_minutes=args.timeout)


if __name__ == "__main__":
    run()
