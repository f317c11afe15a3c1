#!/usr/bin/env python
"""Writes people with a diffusion model, stage by stage, for pre-training (Diffusion-ReID).

    diffperson.py STAGE … --config-file FILE [--shard i/n] KEY VALUE …

Stages, in their order: caption, reference, train, generate, filter, top-up, export. One command runs one of them, or
several one after another. Each can be stopped at any moment and started again: it goes on where it stopped. All but
train can be shared among processes by --shard. Train is shared by --num-gpus as train_net.py is, or, with
DIFFPERSON.GRANULARITY per_id, by --shard.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastreid.config import CfgNode, ConfigError, get_cfg
from fastreid.config.tree import leaves
from fastreid.engine import launch
from fastreid.engine.identity import training_identity
from fastreid.engine.resuming import FREE
from fastreid.engine.setup import tool_argument_parser
from fastreid.generation.caption import caption, captions_file
from fastreid.generation.exporting import export
from fastreid.generation.filtering import filter_pictures, top_up
from fastreid.generation.people import enough_images, people_of
from fastreid.generation.shards import Shard
from fastreid.generation.stages import (
    WEIGHTS,
    draw_samples,
    generate,
    reference_folder,
    refuse_other_reference,
    train_folder,
    write_reference,
)
from fastreid.generation.write import SHEET
from fastreid.utils.checkpoint import read_checkpoint
from fastreid.utils.env import seed_everything
from fastreid.utils.errors import reported_as
from fastreid.utils.logger import setup_logger
from fastreid.utils.suggest import explain_choice
from train_net import main as train_main
from train_net import setup_cfg

logger = logging.getLogger("fastreid.tools.diffperson")

TRAINING_OPTIONS = ("resume", "dry_run", "num_gpus", "num_machines", "machine_rank")
PLACES = tuple(key for key in FREE if key.startswith("DIFFPERSON."))
OTHER_STAGES = tuple(f"DIFFPERSON.{group}" for group in ("GEN.", "FILTER.", "EXPORT.", "CARD.", "MIN_IMAGES"))


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser: a stage, the options of train_net.py and --shard."""
    parser = tool_argument_parser()
    parser.description = "Write people with a diffusion model, stage by stage."
    parser.add_argument("--shard", default="1/1", metavar="i/n", help="part of the people, as 1/8 (default: all)")
    return parser


def train(args: argparse.Namespace, cfg: CfgNode) -> None:
    """Train the generator of all people, or one of each person of the shard; finished trainings are skipped."""
    keys = {"DIFFPERSON.DI.FOLDER": str(reference_folder(cfg))}
    if cfg.DIFFPERSON.DI.ENABLED:
        refuse_other_reference(cfg)
    if cfg.DIFFPERSON.LPE.CAPTIONER != "none":
        keys["DIFFPERSON.LPE.CAPTION_FILE"] = str(captions_file(cfg))
    if cfg.DIFFPERSON.GRANULARITY == "shared":
        if args.shard.count > 1:
            raise ConfigError("one model of all people is not trained in shards: use --num-gpus, or torchrun")
        _train(_training_arguments(args, {**keys, "OUTPUT_DIR": str(train_folder(cfg))}), cfg)
        if _is_first(args) and not args.dry_run:
            draw_samples(cfg, train_folder(cfg))
        return
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("models of one person each are not trained by torchrun: use --shard i/n, or --num-gpus")
    people, _ = enough_images(people_of(cfg), cfg.DIFFPERSON.MIN_IMAGES)
    for who in args.shard.of(people):
        folder = train_folder(cfg, who.gid)
        own = _training_arguments(args, {**keys, "DIFFPERSON.PERSON": who.gid, "OUTPUT_DIR": str(folder)})
        is_trained = _is_trained(folder, own)
        if not is_trained:
            _train(own, cfg)
        if not (args.dry_run or (is_trained and (folder / SHEET).is_file())):
            draw_samples(cfg, folder, who.gid)


def _is_trained(folder: Path, own: argparse.Namespace) -> bool:
    """Whether a training with the same config has ended; of another config the training itself says what to do."""
    if not (folder / WEIGHTS).is_file():
        return False
    identity = read_checkpoint(folder / WEIGHTS, lazily=True).get("identity")
    now, before = training_identity(setup_cfg(own), None, None)["config"], (identity or {}).get("config")
    return isinstance(before, dict) and _without_places(before) == _without_places(now)


def _without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in PLACES}


def _is_first(args: argparse.Namespace) -> bool:
    """Whether this process is the first one of a run; torchrun starts this script in each process."""
    return args.machine_rank == 0 and os.environ.get("RANK", "0") == "0"


def _training_arguments(args: argparse.Namespace, values: dict[str, Any]) -> argparse.Namespace:
    """Return the arguments of one training by train_net.py; it resumes from its last checkpoint.

    Keys of other stages have their defaults in it, so that a change of them does not stop it from being resumed.
    """
    defaults = {key: value for key, value in leaves(get_cfg()) if key.startswith(OTHER_STAGES)}
    options = [word for key, value in (defaults | values).items() for word in (key, repr(value))]
    own = argparse.Namespace(**{**vars(args), "opts": [*args.opts, *options], "resume": args.resume or True})
    own.verify = False
    return own


def _train(own: argparse.Namespace, cfg: CfgNode) -> None:
    """Run one training as train_net.py does."""
    machines = (own.num_gpus, own.num_machines, own.machine_rank, own.dist_url)
    launch(train_main, *machines, args=(own,), device=cfg.MODEL.DEVICE, timeout_minutes=own.timeout)


STAGES: dict[str, Callable[[argparse.Namespace, CfgNode], Any]] = {
    "caption": lambda args, cfg: caption(cfg, args.shard),
    "reference": lambda args, cfg: write_reference(cfg, args.shard),
    "train": train,
    "generate": lambda args, cfg: generate(cfg, args.shard),
    "filter": lambda args, cfg: filter_pictures(cfg, args.shard),
    "top-up": lambda args, cfg: top_up(cfg, args.shard),
    "export": lambda args, cfg: export(cfg, args.shard),
}


def _refuse_options(stage: str, args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Stop with an error if options are given that the stage does not have.

    Args:
        stage: the stage.
        args: the arguments.
        parser: their parser, for the defaults.
    """
    options = ("eval_only",) if stage == "train" else (*TRAINING_OPTIONS, "eval_only")
    for name in options:
        if getattr(args, name) != parser.get_default(name):
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"{option}: the generator is not evaluated; take it out"
                if name == "eval_only"
                else f"{option} is an option of the stage train only; {stage} is shared by --shard i/n"
            )


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the stages, which come first, and the other words.

    Raises:
        ConfigError: one of the first words is no stage.
    """
    stages = list(itertools.takewhile(_is_name, words))
    for stage in stages:
        if stage not in STAGES:
            raise ConfigError(explain_choice("stage", stage, STAGES))
    return stages, list(words[len(stages) :])


def _shard_first(words: Sequence[str]) -> list[str]:
    """Return the words with --shard in front of them: unlike other options, it may also follow the keys."""
    found = next((place for place, word in enumerate(words) if word == "--shard" or word.startswith("--shard=")), None)
    if found is None:
        return list(words)
    stop = found + (1 if "=" in words[found] else 2)
    return [*words[found:stop], *words[:found], *words[stop:]]


def _is_name(word: str) -> bool:
    """Whether a word is neither an option nor the name of a key."""
    return word[:1].islower()


def run(words: Sequence[str] | None = None) -> None:
    """Parse the command line and run its stages.

    Args:
        words: the arguments (default: those of the process).
    """
    with reported_as("diffperson"):
        parser = argument_parser()
        parser.usage = "diffperson.py STAGE … --config-file FILE [options] [KEY VALUE …]; STAGE: " + ", ".join(STAGES)
        stages, rest = _split(sys.argv[1:] if words is None else words)
        args = parser.parse_args(_shard_first(rest))
        if not stages:
            parser.error(f"the stage is missing: it comes first, and is one or more of {', '.join(STAGES)}")
        args.shard = Shard.parse(args.shard)
        for stage in stages:
            _refuse_options(stage, args, parser)
        cfg = setup_cfg(args)
        if cfg.DIFFPERSON.PERSON >= 0:
            raise ConfigError(
                "DIFFPERSON.PERSON is set by the stage train with DIFFPERSON.GRANULARITY per_id: take it out"
            )
        for stage in stages:
            if stage != "train":
                setup_logger(cfg.OUTPUT_DIR)
                seed_everything(max(cfg.MODEL.SEED, 0))
            if cfg.DATASETS.EXCLUDE_SOURCES and stage != "export":
                logger.warning(
                    "DATASETS.EXCLUDE_SOURCES has no effect on the stage %s, only on export: to keep the generator "
                    "from data sets, take them out of DATASETS.NAMES", stage,
                )  # fmt: skip
            STAGES[stage](args, cfg)


if __name__ == "__main__":
    run()
