"""Hooks, the loop over epochs and iterations that calls them, and the progress of a run for its checkpoints."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch import nn

from fastreid.utils.events import EventStorage

logger = logging.getLogger(__name__)


class HookBase:
    """Work at certain points of a run; ``self.trainer`` is set by ``register_hooks``."""

    trainer: TrainerBase

    def before_train(self) -> None:
        """Before the first iteration."""

    def after_train(self) -> None:
        """After the last iteration, also if an error or Ctrl-C ended the run."""

    def before_epoch(self) -> None:
        """Before each epoch."""

    def after_epoch(self) -> None:
        """After each epoch, number ``trainer.epoch``; ``trainer.iter`` is the number of iterations done."""

    def before_step(self) -> None:
        """Before each iteration."""

    def after_backward(self) -> None:
        """Between the backward pass and the optimiser's step; gradients (fp16: scaled ones) may be changed."""

    def after_step(self) -> None:
        """After each iteration; ``trainer.iter`` is its number."""

    def between_steps(self) -> None:
        """After `after_step` of all hooks; ``trainer.iter`` is the number of iterations done."""


class TrainerBase:
    """Runs ``run_step`` ``iters_per_epoch`` times an epoch, with hooks.

    ``iter`` and ``epoch`` count from 0 and name the current iteration and epoch; between them
    ``iter`` is the number of iterations done.
    """

    # Parts of trainers that have them.
    model: nn.Module
    optimizer: torch.optim.Optimizer
    data_loader: Any = None
    accumulation_steps = 1
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    _batches: Iterator[dict[str, Any]] | None = None
    # State of the run.
    start_epoch = start_iter = max_epoch = 0
    took_step = True  # whether the last iteration changed the weights
    started_from: str | None = None  # checksum of the weights that the run started from
    identity: dict[str, Any] | None = None  # what the run trains on
    changed_at_resume: Sequence[str] = ()
    # The last evaluation, and the best one so far; hooks set them.
    results: Any
    best_metric: float | None = None
    best_iteration: int | None = None
    is_evaluating = False
    is_stopped = False  # by an error or a signal
    # Steps that were skipped because a loss or a gradient was not finite: in the run, and the last consecutive ones.
    nonfinite_steps = nonfinite_in_a_row = 0

    def __init__(self) -> None:
        self.hooks: list[HookBase] = []
        self.storage = EventStorage()
        self.iter = self.epoch = 0
        self.iters_per_epoch = 1
        self.results = {}

    @property
    def max_iter(self) -> int:
        """Iterations of the whole run."""
        return self.max_epoch * self.iters_per_epoch

    def register_hooks(self, hooks: Iterable[HookBase | None]) -> None:
        """Append hooks, which are called in this order at each point; None is skipped."""
        for hook in hooks:
            if hook is not None:
                hook.trainer = self
                self.hooks.append(hook)

    def train(self, start_epoch: int, max_epoch: int, iters_per_epoch: int, *, start_iter: int | None = None) -> None:
        """Run epochs ``start_epoch`` to ``max_epoch`` - 1.

        Args:
            start_epoch: the first epoch.
            max_epoch: number of epochs of the whole run.
            iters_per_epoch: iterations of an epoch.
            start_iter: the first iteration, if it is later than the start of the first epoch.
        """
        self.start_epoch, self.max_epoch, self.iters_per_epoch = (
            start_epoch,
            max_epoch,
            iters_per_epoch,
        )
        self.start_iter = start_epoch * iters_per_epoch if start_iter is None else start_iter
        self.iter, self.epoch, self.is_stopped = self.start_iter, max(start_epoch - 1, 0), False
        with self.storage:
            try:
                self._call("before_train")
                for self.epoch in range(start_epoch, max_epoch):
                    self._run_epoch()
            except BaseException:
                self._clean_up()
                raise
            self._call("after_train")

    def _clean_up(self) -> None:
        """Call ``after_train`` of all hooks; errors in it are logged and do not hide the first error."""
        self.is_stopped = True
        for hook in self.hooks:
            try:
                hook.after_train()
            except Exception as error:
                what = f"{type(error).__name__}: {error}"
                logger.warning("%s.after_train failed too: %s", type(hook).__name__, what)
                logger.debug("failed in after_train", exc_info=True)

    def _run_epoch(self) -> None:
        self._call("before_epoch")
        while self.iter < (self.epoch + 1) * self.iters_per_epoch:
            self.storage.iter, self.storage.epoch = self.iter, self.epoch
            self._call("before_step")
            self.run_step()
            self._call("after_step")
            self.iter += 1
            self._call("between_steps")
        self._call("after_epoch")

    def _call(self, point: str) -> None:
        for hook in self.hooks:
            getattr(hook, point)()

    def restart_loader(self) -> None:
        """Draw the next batch from a new iterator of the loader: its labels or its order have changed."""
        self._batches = None

    def epoch_tasks_state(self) -> dict[str, Any] | None:
        """State of the epoch tasks for checkpoints. Default: None, there are no tasks."""
        return None

    def run_step(self) -> None:
        """One iteration."""
        raise NotImplementedError(f"{type(self).__name__} must define run_step")


class EvaluationInterrupted(BaseException):
    """A signal interrupts an evaluation.

    Args:
        stop: saves the run and ends it; it must be called after the random states were restored.
    """

    def __init__(self, stop: Callable[[], NoReturn]) -> None:
        super().__init__("stopped by a signal")
        self.stop = stop


def progress_of(trainer: TrainerBase) -> dict[str, Any]:
    """The progress of a run, for its checkpoints."""
    tasks = trainer.epoch_tasks_state()
    return {
        "epoch": trainer.epoch,
        "iteration": trainer.iter,
        "iters_per_epoch": trainer.iters_per_epoch,
        "best_metric": trainer.best_metric,
        "best_iteration": trainer.best_iteration,
        "started_from": trainer.started_from,
        "nonfinite_steps": trainer.nonfinite_steps,
        "nonfinite_in_a_row": trainer.nonfinite_in_a_row,
        "identity": trainer.identity,
        "scalars": trainer.storage.state(),
        **({} if tasks is None else {"epoch_tasks": tasks}),
    }
