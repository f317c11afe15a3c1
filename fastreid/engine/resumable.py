"""A trainer whose run can be stopped and resumed: loads first weights, restores checkpoints, names their contents."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from torch import nn

from fastreid.config import CfgNode, ConfigError
from fastreid.engine.epoch_tasks import EpochTasks
from fastreid.engine.evaluating import RECORD, last_evaluation, restore_best
from fastreid.engine.identity import Identity, training_identity
from fastreid.engine.nonfinite import DivergenceError
from fastreid.engine.resuming import ANYWAY, check_resumable, take_options
from fastreid.engine.sharding import is_sharded
from fastreid.engine.train_loop import SimpleTrainer
from fastreid.engine.trainer_base import progress_of
from fastreid.engine.training_loader import TrainingLoader
from fastreid.evaluation.results import set_results_aside
from fastreid.modeling import interface_of
from fastreid.modeling.trained import saying_what_it_is
from fastreid.solver import LRSchedule
from fastreid.utils import comm
from fastreid.utils.checkpoint import Checkpointer, WeightsError, load_weights, read_checkpoint
from fastreid.utils.env import set_rng_state
from fastreid.utils.manifest import sha256_of

logger = logging.getLogger(__name__)


class ResumableTrainer(SimpleTrainer):
    """A `SimpleTrainer` with a config, an output folder and checkpoints; `DefaultTrainer` builds its parts."""

    cfg: CfgNode
    bare_model: nn.Module
    checkpointer: Checkpointer
    schedule: LRSchedule
    loader: TrainingLoader
    epoch_tasks: EpochTasks | None = None
    model_facts: Mapping[str, Any] = {}  # the part of the identity that the model decides

    def epoch_tasks_state(self) -> dict[str, Any] | None:
        """State of the epoch tasks for checkpoints; None if there are none."""
        return None if self.epoch_tasks is None else self.epoch_tasks.state_dict()

    def resume_or_load(self, resume: bool | str = False) -> None:
        """Resume the last checkpoint if asked and there is one; else load MODEL.WEIGHTS if there are any.

        Args:
            resume: True, or "anyway" to resume although data or configuration have changed (--resume-anyway).

        Raises:
            WeightsError: the file is missing, unreadable, or of another model.
            ResumeError: the run was trained on other data, or with another configuration.
        """
        path = self.checkpointer.last() if resume else None
        if path is not None:
            self._resume(path, anyway=resume == ANYWAY)
            return
        self.started_from = comm.broadcast(self._checksum_of_weights())
        load_first_weights(self.cfg, self.bare_model)
        if resume and not self.cfg.MODEL.WEIGHTS:
            logger.info("nothing to resume in %s: starting anew", self.cfg.OUTPUT_DIR)

    def _checksum_of_weights(self) -> str | None:
        """Checksum of the file MODEL.WEIGHTS; None if there is none, and in other processes than the main one."""
        return sha256_of(self.cfg.MODEL.WEIGHTS) if self.cfg.MODEL.WEIGHTS and comm.is_main_process() else None

    def _prepare_folder(self) -> None:
        """Rename checkpoints and results of an earlier run in OUTPUT_DIR: a new run must not be mistaken for it."""
        if comm.is_main_process() and not self.start_iter:
            (Path(self.cfg.OUTPUT_DIR) / RECORD).unlink(missing_ok=True)
            if moved := [*self.checkpointer.set_aside(), *set_results_aside(self.cfg.OUTPUT_DIR)]:
                logger.warning(
                    "files of an earlier run in %s were renamed to %s", self.cfg.OUTPUT_DIR, ", ".join(moved)
                )
        comm.synchronize()

    def _identify(self) -> Identity:
        """What this run trains on, the same in all processes; the main one reads the images."""
        if self.identity is None:
            found: dict[str, Any] = {}
            if comm.is_main_process():
                images, labels = self.loader.images, self.loader.labels
                found = {**training_identity(self.cfg, images, labels, optimizer=self.optimizer), **self.model_facts}
            self.identity = comm.broadcast(found)
        return self.identity

    def _resume(self, path: os.PathLike[str], *, anyway: bool = False) -> None:
        # Processes that share a model read their parts of the file, and the main one compares the checksum.
        content = read_checkpoint(path, lazily=is_sharded(self.checkpointer.model) and not comm.is_main_process())
        changed = check_resumable(path, content, self._identify(), self.optimizer, anyway=anyway)
        self.changed_at_resume = changed
        asked = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        values = self.checkpointer.resume(path, content)
        take_options(self.optimizer, asked, changed)
        self._restore(values)
        self._check_weights(path, values.get("started_from"))
        self._check_epoch_length(path, values, anyway=anyway)
        if self.epoch_tasks is not None:
            is_in_epoch = self.start_iter > self.start_epoch * self.iters_per_epoch
            self.epoch_tasks.resume(values.get("epoch_tasks"), epoch=self.start_epoch, is_in_epoch=is_in_epoch)
        # Samplers draw from a fixed seed: without this, the order of the first epochs would be repeated.
        self.loader.fast_forward(self.start_iter)
        logger.info(
            "resumed from %s: %d of %d epochs done, iteration %d",
            path, self.start_epoch, self.max_epoch, self.start_iter,
        )  # fmt: skip

    def _restore(self, values: Mapping[str, Any]) -> None:
        """Put back what `progress_of` gave to the checkpoint."""
        self.start_epoch, self.start_iter = values["epoch"] + 1, values["iteration"]
        best = values["best_metric"], values.get("best_iteration")
        done = comm.broadcast(self._last_evaluation())
        # A checkpoint is written before its evaluation.
        self.best_metric, self.best_iteration = (done["best_metric"], done["best_iteration"]) if done else best
        self.nonfinite_steps = values.get("nonfinite_steps", 0)
        self.nonfinite_in_a_row = values.get("nonfinite_in_a_row", 0)
        self.storage.load_state(values.get("scalars", {}))
        if self.nonfinite_steps:
            self.storage.put_totals(nonfinite_steps=self.nonfinite_steps)

    def _check_epoch_length(self, path: os.PathLike[str], values: Mapping[str, Any], *, anyway: bool) -> None:
        """Compare the iterations of an epoch with those of the checkpoint.

        Raises:
            ConfigError: they are others, and the run is not resumed anyway from the end of an epoch.
        """
        per_epoch = values.get("iters_per_epoch", self.start_iter / self.start_epoch if self.start_epoch else 0)
        if per_epoch == self.iters_per_epoch:
            return
        if not anyway or self.start_iter != self.start_epoch * per_epoch:
            raise ConfigError(
                f"{path} was written after {self.start_iter} iterations, {per_epoch:g} to an epoch, but an epoch of "
                f"this run has {self.iters_per_epoch}: resume with the same data and batch size (or, from the end of "
                "an epoch, with --resume-anyway)"
            )
        self.start_iter = self.start_epoch * self.iters_per_epoch
        self.schedule.set_iteration(self.start_iter)

    def _check_weights(self, path: os.PathLike[str], started_from: str | None) -> None:
        """Warn if MODEL.WEIGHTS is now another file than the one that the run started from."""
        self.started_from = started_from
        now = self._checksum_of_weights()
        if now and started_from and now != started_from:
            logger.warning(
                "resuming %s, but MODEL.WEIGHTS %s is not the file that this run started from: to start from it "
                "instead, leave out --resume or give another OUTPUT_DIR",
                path, self.cfg.MODEL.WEIGHTS,
            )  # fmt: skip

    def _restore_best(self) -> None:
        """Make sure that a resumed run has its model_best.pth."""
        best = restore_best(self.checkpointer, self.best_metric, self.best_iteration)
        self.best_metric, self.best_iteration = best

    def _last_evaluation(self) -> dict[str, Any] | None:
        """The record of the evaluation of the resumed checkpoint, if it was finished. Main process only."""
        done = last_evaluation(self.cfg.OUTPUT_DIR) if comm.is_main_process() else None
        return dataclasses.asdict(done) if done and done.iteration == self.start_iter else None

    def _is_evaluated(self) -> bool:
        """Whether the resumed checkpoint was evaluated, and all results were written."""
        return comm.broadcast(self._last_evaluation() is not None)  # machines need not share the folder

    def give_up(self, message: str) -> NoReturn:
        """Write model_before_nonfinite.pth, the run before the first of the steps that were not finite, and stop.

        Raises:
            DivergenceError: always.
        """
        # They changed no weight, so only the count and the random states are restored.
        set_rng_state(self.random_before)
        first_bad = self.iter + 1 - self.nonfinite_in_a_row
        counts = {"nonfinite_steps": self.nonfinite_steps, "nonfinite_in_a_row": 0}
        values = progress_of(self) | {"epoch": first_bad // self.iters_per_epoch - 1, "iteration": first_bad}
        path = self.checkpointer.save("model_before_nonfinite", **(values | counts))
        raise DivergenceError(
            f"{message}; then continue with --resume-anyway. It starts from {path}, written just now: the run before "
            f"the first of these steps, after iteration {first_bad}. An earlier one can be named in last_checkpoint"
        )


def load_first_weights(cfg: CfgNode, model: nn.Module) -> None:
    """Load MODEL.WEIGHTS into a model that is about to be trained.

    Raises:
        WeightsError: the file is missing, unreadable, or of another model; or there is none, and the model needs one.
        ConfigError: the weights lack what the training needs.
    """
    if cfg.MODEL.WEIGHTS:
        coverage = cfg.MODEL.BACKBONE.PRETRAIN_MIN_COVERAGE
        with saying_what_it_is(cfg.MODEL.WEIGHTS, cfg):
            load_weights(model, cfg.MODEL.WEIGHTS, to_train=True, min_coverage=coverage)
        interface_of(model).check_weights()
    elif required := interface_of(model).required_prefixes:
        raise WeightsError(
            f"{type(model).__name__} starts from a checkpoint that fills {', '.join(required)}: "
            "set MODEL.WEIGHTS to one (for stage 2, stage 1's model_best.pth or model_final.pth)"
        )
