"""Hooks of the training loop: timing, learning rate, averaging, checkpoints, records."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch

from fastreid.engine.callbacks import AutogradProfiler, CallbackHook  # noqa: F401  (fast-reid's place for them)
from fastreid.engine.evaluating import BestCheckpointer, EvalHook, EvaluationRecorder, ReportWriter  # noqa: F401
from fastreid.engine.freezing import LayerFreeze  # noqa: F401
from fastreid.engine.precise_bn import PreciseBN  # noqa: F401
from fastreid.engine.stopping import Interrupted, StopOnSignal  # noqa: F401
from fastreid.engine.trainer_base import HookBase, progress_of
from fastreid.engine.training_loader import skipped_images
from fastreid.solver import LRSchedule
from fastreid.solver.ema import WeightAverage
from fastreid.utils import comm
from fastreid.utils.checkpoint import INTERRUPTED, Checkpointer
from fastreid.utils.errors import UserError
from fastreid.utils.events import EventWriter, Record
from fastreid.utils.seal import damage_in
from fastreid.utils.skipped import describe_skipped
from fastreid.utils.timing import RunningMedian, format_seconds
from fastreid.utils.writers import Writer

logger = logging.getLogger(__name__)

FINAL = "model_final"


class IterationTimer(HookBase):
    """Puts "time" (seconds per iteration) into the storage and logs the total at the end."""

    def __init__(self) -> None:
        self._recent = RunningMedian()
        self._train_start = time.perf_counter()

    def eta_seconds(self, done: int) -> float:
        """Time left after ``done`` iterations at the recent speed, without evaluations."""
        return self._recent.median * (self.trainer.max_iter - done)

    def before_train(self) -> None:
        """Start the time of the run."""
        self._train_start = time.perf_counter()

    def before_step(self) -> None:
        """Start the time of an iteration."""
        self._step_start = time.perf_counter()

    def after_step(self) -> None:
        """Record the time of an iteration."""
        seconds = time.perf_counter() - self._step_start
        self._recent.add(seconds)
        self.trainer.storage.put_scalars(time=seconds)

    def after_train(self) -> None:
        """Log the total time."""
        done = self.trainer.iter - self.trainer.start_iter
        seconds = time.perf_counter() - self._train_start
        logger.info("%d iterations in %s, evaluations included", done, format_seconds(seconds))


class ScheduleError(UserError, TypeError):
    """A scheduler that cannot set the learning rate of a given iteration, such as those of torch."""


@runtime_checkable
class _SetsIteration(Protocol):
    def set_iteration(self, iteration: int) -> None: ...


class LRScheduler(HookBase):
    """Sets the learning rates of an iteration before it runs: ``LRScheduler(schedule)``.

    Also takes fast-reid's arguments, ``LRScheduler(optimizer, schedule)``.

    Args:
        schedule: the schedule, or an optimiser, which is ignored.
        scheduler: the schedule if the first argument is an optimiser.

    Raises:
        ScheduleError: the schedule cannot set the learning rate of a given iteration.
    """

    def __init__(self, schedule: LRSchedule | torch.optim.Optimizer, scheduler: LRSchedule | None = None) -> None:
        given = schedule if scheduler is None else scheduler
        if not isinstance(given, _SetsIteration):
            raise ScheduleError(
                f"LRScheduler takes an LRSchedule, as build_lr_scheduler(cfg, optimizer, iters_per_epoch) returns it, "
                f"and not {type(given).__name__}. For a scheduler of torch, add a hook whose after_step or "
                "after_epoch calls scheduler.step(); for a curve of your own, register it in SCHEDULE_REGISTRY"
            )
        self._schedule = given

    def before_step(self) -> None:
        """Set the learning rates of the iteration."""
        self._schedule.set_iteration(self.trainer.iter)


class AverageWeights(HookBase):
    """Updates the averaged weights after each step that changed the weights.

    Args:
        average: the averaged weights.
    """

    def __init__(self, average: WeightAverage) -> None:
        self._average = average

    def before_train(self) -> None:
        """Start the average at the first weights of a new run."""
        if not self.trainer.start_iter:  # a resumed run has loaded its average
            self._average.restart()

    def before_step(self) -> None:
        """Assume that the iteration changes the weights."""
        self.trainer.took_step = True  # a user-defined run_step may not set it

    def after_step(self) -> None:
        """Update the average."""
        if self.trainer.took_step:
            self._average.update()


class PeriodicCheckpointer(HookBase):
    """Writes model_NNNN.pth every ``period`` epochs (NNNN from 0), model_final.pth after the last.

    It must precede EvalHook, so that an evaluation that fails loses no training.

    Args:
        checkpointer: writes the files.
        period: epochs between two checkpoints; 0: only the last one.
        keep: number of the newest model_NNNN.pth to keep; 0 keeps all.
    """

    def __init__(self, checkpointer: Checkpointer, period: int, *, keep: int = 0) -> None:
        self._checkpointer, self._period, self._keep = checkpointer, period, keep

    def before_train(self) -> None:
        """Finish what a killed process has not done; write a lost model_final.pth of a finished run again."""
        trainer = self.trainer
        if trainer.start_iter:
            self._checkpointer.tidy(self._keep)
            if trainer.start_epoch == trainer.max_epoch and self._is_final_lost():
                self._save(FINAL)

    def after_epoch(self) -> None:
        """Write a checkpoint if it is due."""
        trainer, done = self.trainer, self.trainer.epoch + 1
        if done == trainer.max_epoch:
            self._save(FINAL)
        elif self._period > 0 and done % self._period == 0:
            self._save(f"model_{trainer.epoch:04d}")

    def _is_final_lost(self) -> bool:
        path = self._checkpointer.save_dir / f"{FINAL}.pth"
        wrong = comm.broadcast(damage_in(path) if comm.is_main_process() else "")
        if wrong:
            logger.warning("%s cannot be used: %s. It is written again", path, wrong)
        return bool(wrong)

    def _save(self, name: str) -> None:
        self._checkpointer.save(name, **progress_of(self.trainer))
        self._checkpointer.remove_all_but(self._keep)
        if comm.is_main_process():
            (self._checkpointer.save_dir / INTERRUPTED).unlink(missing_ok=True)  # no longer the newest


class LogSkippedImages(HookBase):
    """Logs at the end which images were skipped (DATALOADER.BAD_IMAGES), each counted once over all processes."""

    _is_logged = False

    def before_train(self) -> None:
        """Forget earlier messages."""
        self._is_logged = False

    def after_epoch(self) -> None:
        """Log the images of all processes after the last epoch."""
        if self.trainer.epoch + 1 == self.trainer.max_epoch and self.trainer.data_loader is not None:
            parts = comm.all_gather(dict(skipped_images(self.trainer.data_loader)))
            self._log({path: why for part in parts for path, why in part.items()})
            self._is_logged = True

    def after_train(self) -> None:
        """Log the images of this process if the run was stopped."""
        # Only for this process: after an error the others may never call this.
        if not self._is_logged and self.trainer.data_loader is not None:
            self._log(skipped_images(self.trainer.data_loader))

    def _log(self, skipped: Mapping[str, str]) -> None:
        if skipped:
            first = self.trainer.start_iter
            logger.warning("trained since iteration %d without some images: %s", first, describe_skipped(skipped))


class PeriodicWriter(HookBase):
    """Writes the means over the last ``period`` iterations, and the results of every evaluation.

    Args:
        make_writers: returns the writers, those of fast-reid (`fastreid.utils.events.EventWriter`) included; it is
            called when training starts, as building a trainer writes nothing.
        period: iterations between two records.
        timer: the timer of the run; if it is None, that among its hooks.

    Raises:
        TypeError: `make_writers` is not callable.
    """

    def __init__(
        self,
        make_writers: Callable[[], Sequence[Writer | EventWriter]],
        period: int = 20,
        *,
        timer: IterationTimer | None = None,
    ) -> None:
        if not callable(make_writers):
            raise TypeError(
                "PeriodicWriter takes the method self.build_writers, not what it returns: writers need the iteration "
                "at which a resumed run starts, otherwise they would drop earlier records"
            )
        self._make_writers, self._given_timer, self._period = make_writers, timer, period
        self._writers: Sequence[Writer | EventWriter] = ()

    def before_train(self) -> None:
        """Create the writers."""
        timer = self._given_timer or next((h for h in self.trainer.hooks if isinstance(h, IterationTimer)), None)
        if timer is None:
            raise RuntimeError("PeriodicWriter needs an IterationTimer among the hooks of the run")
        self._timer = timer
        self._writers = self._make_writers()
        self._write_results()  # of an evaluation that the resumed run has repeated

    def after_step(self) -> None:
        """Write a record of the last iterations if it is due."""
        trainer = self.trainer
        done = trainer.iter + 1
        if done % self._period and done != trainer.max_iter:
            return
        self._write({
            **self._position(done),
            "lr": trainer.optimizer.param_groups[0]["lr"],
            **trainer.storage.pop_means(),
            "eta_seconds": self._timer.eta_seconds(done),
        })  # fmt: skip

    def after_epoch(self) -> None:
        """Write the results of an evaluation."""
        self._write_results()

    def after_train(self) -> None:
        """Write the last results and close the writers."""
        self._write_results()
        for writer in self._writers:
            writer.close()

    def _write_results(self) -> None:
        results = self.trainer.storage.pop_results()
        if results:
            self._write({**self._position(self.trainer.iter), **results})

    def _position(self, iterations: int) -> Record:
        return {"iteration": iterations, "epoch": self.trainer.epoch}

    def _write(self, record: Record) -> None:
        storage = self.trainer.storage
        if "lr" in record:
            storage.put_history("lr", record["lr"], smoothing_hint=False)
        for writer in self._writers:
            if isinstance(writer, EventWriter):
                writer.write()  # reads the storage of the training
            else:
                writer.write(record)
