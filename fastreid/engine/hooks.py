"""What joins the training loop: timing, learning rate, checkpoints, evaluation, writing."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
import torch.distributed as dist

from fastreid.engine.callbacks import AutogradProfiler, CallbackHook  # noqa: F401  (fast-reid's place for them)
from fastreid.engine.freezing import LayerFreeze  # noqa: F401
from fastreid.engine.precise_bn import PreciseBN  # noqa: F401
from fastreid.engine.train_loop import HookBase, TrainerBase
from fastreid.solver import LRSchedule
from fastreid.solver.ema import WeightAverage
from fastreid.utils import comm
from fastreid.utils.checkpoint import Checkpointer, read_checkpoint
from fastreid.utils.env import rng_state, set_rng_state
from fastreid.utils.events import Record
from fastreid.utils.skipped import tell_skipped
from fastreid.utils.timing import RunningMedian, format_seconds
from fastreid.utils.writers import Writer

logger = logging.getLogger(__name__)

Results = Mapping[str, Mapping[str, float]]


class IterationTimer(HookBase):
    """Puts "time" (seconds per iteration) into the storage and says the total at the end."""

    def __init__(self) -> None:
        self._recent = RunningMedian()

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


class LRScheduler(HookBase):
    """Sets the learning rates of an iteration before it runs: ``LRScheduler(schedule)``.

    Or, as in fast-reid, ``LRScheduler(optimizer, schedule)``; the schedule knows its optimiser.
    """

    def __init__(self, schedule: LRSchedule | torch.optim.Optimizer, scheduler: LRSchedule | None = None) -> None:
        self._schedule = schedule if scheduler is None else scheduler

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
            (self._checkpointer.save_dir / "model_interrupted.pth").unlink(missing_ok=True)  # the run has gone on


class StopOnSignal(HookBase):
    """SIGTERM or Ctrl-C: finish the iteration, write model_interrupted.pth, say how to go on, and stop.

    An evaluation is not waited for: the resumed run makes up for it. The second signal stops at once. With several
    processes all look every ``period`` iterations whether one was told to stop, so that they stop at the same one.
    """

    def __init__(self, checkpointer: Checkpointer, *, period: int = 10) -> None:
        self._checkpointer, self._period = checkpointer, period
        self._told = 0
        self._must_save = False
        self._before: dict[int, Any] = {}

    def before_train(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # only there may signals be handled
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._remember)

    def after_train(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())
        if self._must_save:
            self._must_save = False
            self._checkpointer.save("model_interrupted", **progress_of(self.trainer))

    def _remember(self, number: int, frame: Any) -> None:
        if self._told:
            raise KeyboardInterrupt
        self._told = number
        if self.trainer.is_between_epochs and not comm.is_distributed():
            self._must_save = True  # not here: the evaluation has yet to put the random states back
            raise self._interrupted()
        logger.warning("%s: stopping soon; once more stops at once", signal.Signals(number).name)

    def between_steps(self) -> None:
        trainer, told = self.trainer, self._told
        if comm.is_distributed():
            if trainer.iter % self._period:
                return
            told = int(comm.all_reduce_sum(torch.tensor([told], device=_device_for_comm()))[0])
        if not told or trainer.iter == trainer.max_iter:  # a run that is done is kept as model_final.pth
            return
        is_done = trainer.iter == (trainer.epoch + 1) * trainer.iters_per_epoch
        # Of an epoch that is not done, the one before is the last.
        values = progress_of(trainer) | {"epoch": trainer.epoch if is_done else trainer.epoch - 1}
        self._checkpointer.save("model_interrupted", **values)
        raise self._interrupted()

    def _interrupted(self) -> Interrupted:
        return Interrupted(
            f"stopped by a signal after iteration {self.trainer.iter} of {self.trainer.max_iter}; all of it is in "
            f"{self._checkpointer.save_dir / 'model_interrupted.pth'}. Go on with the same command and --resume"
        )


class Interrupted(SystemExit):
    """A run that was told to stop, and did so in order."""


def progress_of(trainer: TrainerBase) -> dict[str, Any]:
    """How far a run is, as checkpoints have it."""
    return {
        "epoch": trainer.epoch,
        "iteration": trainer.iter,
        "iters_per_epoch": trainer.iters_per_epoch,
        "best_metric": trainer.best_metric,
        "nonfinite_steps": trainer.nonfinite_steps,
        "nonfinite_in_a_row": trainer.nonfinite_in_a_row,
        "identity": getattr(trainer, "identity", None),
    }


def _device_for_comm() -> torch.device:
    """Where nccl wants its numbers."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


class EvalHook(HookBase):
    """Evaluates every ``period`` epochs (0: never) and after the last.

    A resumed run first makes up for an evaluation that was cut off; of a finished run there is nothing else to do.
    Random states are put back afterwards, so that evaluating more often does not change training.
    """

    def __init__(
        self, period: int, evaluate: Callable[[], Results], is_evaluated: Callable[[], bool] = lambda: True
    ) -> None:
        """``is_evaluated`` says of a resumed run whether its last checkpoint was."""
        self._period, self._evaluate, self._is_evaluated = period, evaluate, is_evaluated

    def before_train(self) -> None:
        done, at_its_end = self.trainer.start_epoch, not self.trainer.start_iter % self.trainer.iters_per_epoch
        missed = done and at_its_end and self._is_due(done) and not self._is_evaluated()
        if done >= self.trainer.max_epoch or missed:
            self._run()

    def after_epoch(self) -> None:
        if self._is_due(self.trainer.epoch + 1):
            self._run()

    def _is_due(self, done: int) -> bool:
        return done == self.trainer.max_epoch or (self._period > 0 and done % self._period == 0)

    def _run(self) -> None:
        state = rng_state()
        try:
            self.trainer.results = self._evaluate()
        finally:
            set_rng_state(state)
        self.trainer.storage.put_results(self.trainer.results)


class BestCheckpointer(HookBase):
    """Keeps model_best.pth: the highest "metric", averaged over protocols, of all evaluations."""

    def __init__(self, checkpointer: Checkpointer) -> None:
        self._checkpointer = checkpointer
        self._seen: Results | None = None

    def before_train(self) -> None:
        self._keep_if_best()

    def after_epoch(self) -> None:
        self._keep_if_best()

    def _keep_if_best(self) -> None:
        trainer = self.trainer
        if trainer.results is self._seen or not trainer.results:
            return
        self._seen = trainer.results
        if not all("metric" in figures for figures in trainer.results.values()):
            return  # of somebody's own evaluator: nothing says what is better
        metric = mean_metric(trainer.results)
        if trainer.best_metric is not None and metric <= trainer.best_metric:
            return
        trainer.best_metric = metric
        self._checkpointer.save("model_best", is_last=False, **progress_of(trainer))
        logger.info(
            "model_best.pth: metric %.2f over %s. It is chosen on the test protocols; "
            "model_final.pth is not", metric, ", ".join(trainer.results),
        )  # fmt: skip


class TellSkippedImages(HookBase):
    """Says in the end how many images were skipped (DATALOADER.BAD_IMAGES), each counted once over all processes."""

    def before_train(self) -> None:
        self._told = False

    def after_epoch(self) -> None:
        loader = self.trainer.data_loader
        if self.trainer.epoch + 1 == self.trainer.max_epoch and hasattr(loader, "skipped"):
            self._tell({path: why for part in comm.all_gather(loader.skipped) for path, why in part.items()})
            self._told = True

    def after_train(self) -> None:
        if not self._told:  # stopped before: others may never come here
            self._tell(getattr(self.trainer.data_loader, "skipped", {}))

    def _tell(self, skipped: Mapping[str, str]) -> None:
        if skipped:
            first = self.trainer.start_iter
            logger.warning("trained since iteration %d without some images: %s", first, tell_skipped(skipped))


def mean_metric(results: Results) -> float:
    """Mean over protocols of "metric", (mAP + Rank-1) / 2 in percent."""
    return fmean(figures["metric"] for figures in results.values())


def best_metric_so_far(checkpointer: Checkpointer, in_checkpoint: float | None) -> float | None:
    """The higher of the resumed checkpoint's best metric and that of model_best.pth, if any.

    A checkpoint is written before its epoch is evaluated, so model_best may know a better one.
    """
    known = [in_checkpoint]
    path = checkpointer.save_dir / "model_best.pth"
    if path.is_file():
        known.append(read_checkpoint(path, lazily=True).get("best_metric"))
    return max((value for value in known if value is not None), default=None)


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
