"""The command line of train_net, and the set-up of every run: folder, log, environment, seed."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from fastreid.config import CfgNode, ConfigError, expand_paths, refuse_unsupported, resolve_device
from fastreid.config.notices import NOTICES
from fastreid.config.unread import log_unread
from fastreid.engine.launch import TIMEOUT_MINUTES
from fastreid.engine.resuming import ANYWAY
from fastreid.evaluation.expected import expected_figures
from fastreid.evaluation.scoring_options import Scoring
from fastreid.utils import comm
from fastreid.utils.env import collect_env, make_deterministic, seed_everything
from fastreid.utils.errors import UserError, sentence_of
from fastreid.utils.files import atomic_write, remove_leftovers
from fastreid.utils.lock import InUseError, acquire, release
from fastreid.utils.logger import setup_logger
from fastreid.utils.precision import set_float32_precision

logger = logging.getLogger(__name__)


def default_argument_parser() -> argparse.ArgumentParser:
    """The parser of fast-reid's options, and of --resume-anyway.

    The options of `tool_argument_parser` are left out: a program that does not read them would ignore them.
    """
    parser = argparse.ArgumentParser(
        description="Train or evaluate a re-identification model.",
        epilog="KEY VALUE pairs override the config file: SOLVER.BASE_LR 0.001 MODEL.DEVICE cpu",
    )
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="YAML file of config keys")
    add(
        "--resume",
        action="store_true",
        help="resume from OUTPUT_DIR/last_checkpoint, if there is one",
    )
    add(
        "--resume-anyway",
        dest="resume",
        action="store_const",
        const=ANYWAY,
        help="like --resume, but accept that data or config have changed; changes are recorded",
    )
    add("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS and stop")
    add("--num-gpus", type=int, default=1, metavar="N", help="processes on each machine")
    add("--num-machines", type=int, default=1, metavar="N", help="machines in the run")
    add("--machine-rank", type=int, default=0, metavar="N", help="number of this machine, from 0")
    add(
        "--dist-url",
        default="auto",
        metavar="URL",
        help="tcp://ADDRESS:PORT; auto: a free local port",
    )
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys and their values")
    return parser


def tool_argument_parser() -> argparse.ArgumentParser:
    """The parser of the options that the training tools of this library read."""
    parser = default_argument_parser()
    add = parser.add_argument
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
        help="Python file to import first, with user-defined data sets or models; may be given several times",
    )
    add("--dry-run", action="store_true", help="build everything, print summaries and stop")
    add(
        "--timeout",
        type=float,
        default=TIMEOUT_MINUTES,
        metavar="MINUTES",
        help="stop if a process of the run does not respond for this long (default: %(default)g)",
    )
    return parser


def _open_log(folder: str | None, rank: int) -> None:
    try:
        setup_logger(folder, rank)
    except OSError as error:
        raise ConfigError(f"OUTPUT_DIR {folder!r} cannot be used: {sentence_of(error) or error}") from error


def _expand(cfg: CfgNode) -> None:
    try:
        expand_paths(cfg)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def default_setup(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Expand `~` in paths, create and lock OUTPUT_DIR, start the log, log environment and config, seed, set up CUDA.

    Afterwards MODEL.DEVICE is the device that "auto" stands for, so that `torch.device(cfg.MODEL.DEVICE)` works.

    No other process can write to OUTPUT_DIR until this one ends (or calls `fastreid.utils.lock.release`). A dry run
    locks it only during the set-up, and writes nothing if another process has the lock.

    Each process seeds with MODEL.SEED + its rank, for random numbers that may differ (dropout); a negative seed is
    drawn at random and logged.

    Args:
        cfg: the config.
        args: the arguments of `default_argument_parser`.

    Raises:
        InUseError: another process writes to OUTPUT_DIR; the message names it.
        ConfigError: a key that this version does not support was changed, keys contradict each other, or OUTPUT_DIR
            cannot be written.
    """
    _expand(cfg)
    cfg.choose("MODEL.DEVICE", resolve_device(cfg.MODEL.DEVICE))
    if not getattr(args, "dry_run", False):
        hold_output_folder(cfg)
        _set_up(cfg, args, cfg.OUTPUT_DIR)
        return
    try:
        hold_output_folder(cfg)
    except InUseError as error:
        _set_up(cfg, args, None)
        logger.warning("nothing is written: %s", str(error).partition(". Wait until")[0])
        return
    _set_up(cfg, args, cfg.OUTPUT_DIR)
    release_output_folder(cfg)


@contextlib.contextmanager
def output_folder(cfg: CfgNode) -> Iterator[None]:
    """Lock OUTPUT_DIR for the block; see `hold_output_folder`."""
    hold_output_folder(cfg)
    try:
        yield
    finally:
        release_output_folder(cfg)


def hold_output_folder(cfg: CfgNode) -> None:
    """Lock OUTPUT_DIR and remove the temporary files that a killed process has left there.

    Every process must call it; the main one, which alone writes results, has the lock.

    Args:
        cfg: the config.

    Raises:
        InUseError: in every process, if another run has the lock.
        NotWritableError: in every process, if it cannot be written to.
    """
    error = None
    if comm.is_main_process():
        try:
            acquire(cfg.OUTPUT_DIR)
            for folder in (Path(cfg.OUTPUT_DIR), Path(cfg.OUTPUT_DIR) / "plots"):
                remove_leftovers(folder)  # before anything is written: they may fill the disk
        except UserError as found:
            error = type(found)(f"OUTPUT_DIR: {found}")
    if error := comm.broadcast(error):
        raise error


def release_output_folder(cfg: CfgNode) -> None:
    """Undo one `hold_output_folder`."""
    if comm.is_main_process():
        release(cfg.OUTPUT_DIR)


def _set_up(cfg: CfgNode, args: argparse.Namespace, folder: str | None) -> None:
    """Do the work of `default_setup` except locking; nothing is written if there is no folder."""
    rank = comm.get_rank()
    _open_log(folder, rank)
    if comm.is_main_process():
        for notice in NOTICES:  # of the time before the log was set up
            logger.warning("%s", notice)
    NOTICES.clear()
    refuse_unsupported(cfg)
    log_unread(cfg)
    if cfg.DETERMINISTIC and cfg.CUDNN_BENCHMARK:
        raise ConfigError("DETERMINISTIC and CUDNN_BENCHMARK contradict each other: set one of them to False")
    Scoring.from_config(cfg)  # raises now, not after the training
    expected_figures(cfg)
    logger.info("environment:\n%s", collect_env())
    logger.info("arguments: %s", args)
    logger.debug("config:\n%s", cfg.dump())
    path = Path(cfg.OUTPUT_DIR) / "config.yaml"
    # config.yaml is that of the training; a resumed run writes it when its changes were accepted.
    keeps_config = any(getattr(args, name, False) for name in ("eval_only", "dry_run", "resume"))
    if folder is not None and not (keeps_config and path.exists()):
        write_config(cfg)
    seed = cfg.MODEL.SEED if cfg.MODEL.SEED >= 0 else comm.broadcast(int(torch.seed() % 2**31))
    logger.info("seed %d", seed)
    seed_everything(seed + rank)
    set_backends(cfg)


def set_backends(cfg: CfgNode) -> None:
    """Set the precision of float32 products and the determinism of this process, as the config says."""
    set_float32_precision(cfg.MODEL.FLOAT32)
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    torch.backends.cudnn.deterministic = not cfg.CUDNN_BENCHMARK
    if cfg.DETERMINISTIC:
        make_deterministic()


def write_config(cfg: CfgNode) -> None:
    """Write OUTPUT_DIR/config.yaml, in the main process."""
    path = Path(cfg.OUTPUT_DIR) / "config.yaml"
    if comm.is_main_process():
        with atomic_write(path) as file:
            file.write(cfg.dump())
        logger.info("config written to %s", os.path.abspath(path))
