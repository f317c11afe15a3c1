"""What joins the training loop: timing, learning rate, checkpoints, evaluation, writing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from fastreid.engine.callbacks import AutogradProfiler, CallbackHook  # noqa: F401  (fast-reid's place for them)
from fastreid.engine.evaluating import BestCheckpointer, EvalHook, EvaluationRecorder  # noqa: F401
from fastreid.engine.freezing import LayerFreeze  # noqa: F401
from fastreid.engine.precise_bn import PreciseBN  # noqa: F401
from fastreid.engine.stopping import Interrupted, StopOnSignal  # noqa: F401
from fastreid.engine.train_loop import HookBase, progress_of
from fastreid.solver import LRSchedule
from fastreid.solver.ema import WeightAverage
from fastreid.utils import comm
from fastreid.utils.checkpoint import INTERRUPTED, Checkpointer
from fastreid.utils.errors import UserError
from fastreid.utils.events import Record
from fastreid.utils.skipped import tell_skipped
from fastreid.utils.timing import RunningMedian, format_seconds
from fastreid.utils.writers import Writer

logger = logging.getLogger(__name__)


class IterationTimer(HookBase):
    """Puts "time" (seconds per iteration) into the storage and says the total at the end."""

    def __init__(self) -> None:
        self._recent = RunningMedian()
        self._train_start = time.perf_counter()

    def eta_seconds(self, done: int) -> float:
        """Time left after ``done`` iterations at the recent pace; evaluations are not foreseen."""
        return self._recent.median * (self.trainer.max_iter - done)

    def before_train(self) -> None:
        self._train_start = time.perf_counter()

    def before_step(self) -> None:
        self._step_start = time.perf_counter()

    def after_step(self) -> None:
        seconds = time.perf_counter() - self._step_start
        self._recent.add(seconds)
        self.trainer.storage.put_scalars(time=seconds)

    def after_train(self) -> None:
        done = self.trainer.iter - self.trainer.start_iter
        seconds = time.perf_counter() - self._train_start
        logger.info("%d iterations in %s, evaluations included", done, format_seconds(seconds))


class ScheduleError(UserError, TypeError):
    """A scheduler that cannot set the learning rate of any iteration, as those of torch."""


class LRScheduler(HookBase):
    """Sets the learning rates of an iteration before it runs: ``LRScheduler(schedule)``.

    Or, as in fast-reid, ``LRScheduler(optimizer, schedule)``; the schedule knows its optimiser.
    """

    def __init__(self, schedule: LRSchedule | torch.optim.Optimizer, scheduler: LRSchedule | None = None) -> None:
        self._schedule = schedule if scheduler is None else scheduler
        if not hasattr(self._schedule, "set_iteration"):
            raise ScheduleError(
                f"LRScheduler takes an LRSchedule, as build_lr_scheduler(cfg, optimizer, iters_per_epoch) gives it, "
                f"and not {type(self._schedule).__name__}. For a scheduler of torch, add a hook whose after_step or "
                "after_epoch calls scheduler.step(); for a curve of your own, register it in SCHEDULE_REGISTRY"
            )

    def before_step(self) -> None:
        self._schedule.set_iteration(self.trainer.iter)


class AverageWeights(HookBase):
    """Takes the weights into their average after each step that changed them."""

    def __init__(self, average: WeightAverage) -> None:
        self._average = average

    def before_train(self) -> None:
        if not self.trainer.start_iter:  # a resumed run has its average
            self._average.restart()

    def before_step(self) -> None:
        self.trainer.took_step = True  # a run_step of somebody's does not say so

    def after_step(self) -> None:
        if self.trainer.took_step:
            self._average.update()


class PeriodicCheckpointer(HookBase):
    """Writes model_NNNN.pth every ``period`` epochs (NNNN from 0), model_final.pth after the last.

    It comes before EvalHook, so that an evaluation that fails loses no training.
    """

    def __init__(self, checkpointer: Checkpointer, period: int, *, keep: int = 0) -> None:
        """``keep``: how many model_NNNN.pth are left, the newest; 0 leaves all."""
        self._checkpointer, self._period, self._keep = checkpointer, period, keep

    def before_train(self) -> None:
        if self.trainer.start_iter:
            self._checkpointer.tidy(self._keep)

    def after_epoch(self) -> None:
        trainer, done = self.trainer, self.trainer.epoch + 1
        if done == trainer.max_epoch:
            self._save("model_final")
        elif self._period > 0 and done % self._period == 0:
            self._save(f"model_{trainer.epoch:04d}")

    def _save(self, name: str) -> None:
        self._checkpointer.save(name, **progress_of(self.trainer))
        self._checkpointer.remove_all_but(self._keep)
        if comm.is_main_process():
            (self._checkpointer.save_dir / INTERRUPTED).unlink(missing_ok=True)  # the run has gone on


class TellSkippedImages(HookBase):
    """Says in the end how many images were skipped (DATALOADER.BAD_IMAGES), each counted once over all processes."""

    _told = False

    def before_train(self) -> None:
        self._told = False

    def after_epoch(self) -> None:
        loader = getattr(self.trainer, "data_loader", None)
        if self.trainer.epoch + 1 == self.trainer.max_epoch and hasattr(loader, "skipped"):
            self._tell({path: why for part in comm.all_gather(loader.skipped) for path, why in part.items()})
            self._told = True

    def after_train(self) -> None:
        if not self._told:  # stopped before: others may never come here
            self._tell(getattr(getattr(self.trainer, "data_loader", None), "skipped", {}))

    def _tell(self, skipped: Mapping[str, str]) -> None:
        if skipped:
            first = self.trainer.start_iter
            logger.warning("trained since iteration %d without some images: %s", first, tell_skipped(skipped))


class PeriodicWriter(HookBase):
    """Hands the mean of the last ``period`` iterations, and every evaluation, to the writers."""

    def __init__(
        self,
        make_writers: Callable[[], Sequence[Writer]],
        period: int = 20,
        *,
        timer: IterationTimer | None = None,
    ) -> None:
        """``make_writers`` is called when training starts: building a trainer writes nothing.

        ``timer``: the one among the run's hooks, if left out.
        """
        if not callable(make_writers):
            raise TypeError(
                "PeriodicWriter takes the method, self.build_writers, and not what it returns: writers must know "
                "where a resumed run starts, or they would drop what it had recorded"
            )
        self._make_writers, self._timer, self._period = make_writers, timer, period
        self._writers: Sequence[Writer] = ()

    def before_train(self) -> None:
        self._timer = self._timer or next((h for h in self.trainer.hooks if isinstance(h, IterationTimer)), None)
        if self._timer is None:
            raise RuntimeError("PeriodicWriter needs an IterationTimer among the hooks of the run")
        self._writers = self._make_writers()
        self._write_results()  # of an evaluation made up for

    def after_step(self) -> None:
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
        self._write_results()

    def after_train(self) -> None:
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
        for writer in self._writers:
            writer.write(record)
