"""The command line of the tools, and what every run does first: folder, log, environment, seed."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

import torch

from fastreid.config import CfgNode, ConfigError, expand_paths, refuse_unsupported
from fastreid.config.renames import NOTICES
from fastreid.config.unread import tell_unread
from fastreid.engine.launch import TIMEOUT_MINUTES
from fastreid.evaluation.scoring import Scoring
from fastreid.utils import comm
from fastreid.utils.env import collect_env, make_deterministic, seed_everything
from fastreid.utils.errors import sentence_of
from fastreid.utils.files import atomic_write
from fastreid.utils.logger import setup_logger

logger = logging.getLogger(__name__)


def default_argument_parser() -> argparse.ArgumentParser:
    """fast-reid's options, and --dry-run."""
    parser = argparse.ArgumentParser(
        description="Train or evaluate a re-identification model.",
        epilog="KEY VALUE pairs override the config file: SOLVER.BASE_LR 0.001 MODEL.DEVICE cpu",
    )
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="YAML file of config keys")
    add(
        "--overlay",
        action="append",
        default=[],
        metavar="FILE",
        help="YAML file merged over --config-file; may be given several times",
    )
    add(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="FILE",
        help="Python file to import first, with data sets or models of your own; may be given several times",
    )
    add(
        "--resume",
        action="store_true",
        help="go on from OUTPUT_DIR/last_checkpoint, if there is one",
    )
    add("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS and stop")
    add("--dry-run", action="store_true", help="build everything, print summaries and stop")
    add("--num-gpus", type=int, default=1, metavar="N", help="processes on each machine")
    add("--num-machines", type=int, default=1, metavar="N", help="machines in the run")
    add("--machine-rank", type=int, default=0, metavar="N", help="number of this machine, from 0")
    add(
        "--dist-url",
        default="auto",
        metavar="URL",
        help="tcp://ADDRESS:PORT; auto: a free local port",
    )
    add(
        "--timeout",
        type=float,
        default=TIMEOUT_MINUTES,
        metavar="MINUTES",
        help="stop if a process of the run does not answer for this long (default: %(default)g)",
    )
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys and their values")
    return parser


def _open_log(folder: str, rank: int) -> None:
    try:
        setup_logger(folder, rank=rank)
    except OSError as error:
        raise ConfigError(f"OUTPUT_DIR {folder!r} cannot be used: {sentence_of(error) or error}") from error


def _expand(cfg: CfgNode) -> None:
    try:
        expand_paths(cfg)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def default_setup(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Expand `~` in paths, make OUTPUT_DIR, start the log, tell the environment and config, seed, set cuDNN.

    Each process seeds with MODEL.SEED + its rank, for what need not agree (dropout); a negative seed is drawn afresh
    and logged.

    Raises:
        ConfigError: a key that this version cannot honour was changed, keys contradict each other, or OUTPUT_DIR
            cannot be written.
    """
    rank = comm.get_rank()
    _expand(cfg)
    _open_log(cfg.OUTPUT_DIR, rank)
    if comm.is_main_process():
        for notice in NOTICES:  # told before there was a log to tell it to
            logger.warning("%s", notice)
    NOTICES.clear()
    refuse_unsupported(cfg)
    tell_unread(cfg)
    if cfg.DETERMINISTIC and cfg.CUDNN_BENCHMARK:
        raise ConfigError("DETERMINISTIC and CUDNN_BENCHMARK contradict each other: set one of them to False")
    Scoring.from_config(cfg)  # else what is wrong would be found after the training
    logger.info("environment:\n%s", collect_env())
    logger.info("arguments: %s", args)
    logger.debug("config:\n%s", cfg.dump())
    path = Path(cfg.OUTPUT_DIR) / "config.yaml"
    only_looks = getattr(args, "eval_only", False) or getattr(args, "dry_run", False)
    if comm.is_main_process() and not (only_looks and path.exists()):  # it says what was trained
        with atomic_write(path) as file:
            file.write(cfg.dump())
        logger.info("config written to %s", os.path.abspath(path))
    seed = cfg.MODEL.SEED if cfg.MODEL.SEED >= 0 else comm.broadcast(int(torch.seed() % 2**31))
    logger.info("seed %d", seed)
    seed_everything(seed + rank)
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    torch.backends.cudnn.deterministic = not cfg.CUDNN_BENCHMARK
    if cfg.DETERMINISTIC:
        make_deterministic()
