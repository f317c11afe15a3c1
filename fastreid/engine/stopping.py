"""Stops a run on a signal: saves it, says how to resume it, and ends the process."""

from __future__ import annotations

import logging
import signal
import threading
import time
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from fastreid.engine.trainer_base import EvaluationInterrupted, HookBase, progress_of
from fastreid.utils import comm
from fastreid.utils.checkpoint import INTERRUPTED, Checkpointer

logger = logging.getLogger(__name__)

# With several processes a signal may arrive twice: from the scheduler, and from the launcher.
_SECONDS_OF_ONE_REQUEST = 3.0


class Interrupted(SystemExit):
    """A run that was stopped by a signal and has saved its state."""


class StopOnSignal(HookBase):
    """On SIGTERM or Ctrl-C, finishes the iteration, writes model_interrupted.pth and stops.

    After the last iteration of an epoch its checkpoint is written first. An evaluation is interrupted: the resumed run
    repeats it. The second signal stops at once. Several processes exchange every ``period`` iterations whether one of
    them got a signal, so that all stop at the same iteration; they finish an evaluation first.

    It must follow PeriodicCheckpointer and precede EvalHook.

    Args:
        checkpointer: writes the checkpoint.
        period: iterations between two exchanges.
    """

    def __init__(self, checkpointer: Checkpointer, *, period: int = 10) -> None:
        self._checkpointer, self._period = checkpointer, period
        self._signal, self._signal_time = 0, 0.0
        self._before: dict[int, Any] = {}

    def before_train(self) -> None:
        """Install the signal handlers."""
        if threading.current_thread() is not threading.main_thread():
            return  # Python allows handlers there only
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._remember)

    def after_train(self) -> None:
        """Restore the earlier signal handlers."""
        while self._before:
            number, handler = self._before.popitem()
            # The launcher may send the same signal later.
            signal.signal(number, signal.SIG_IGN if self._signal and comm.is_distributed() else handler)

    def _remember(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if self._signal:
            if comm.is_distributed() and now - self._signal_time < _SECONDS_OF_ONE_REQUEST:
                return
            raise KeyboardInterrupt
        self._signal, self._signal_time = number, now
        if self.trainer.is_evaluating and not comm.is_distributed():
            raise EvaluationInterrupted(self._stop)
        logger.warning("%s: stopping soon; a second signal stops at once", signal.Signals(number).name)

    def between_steps(self) -> None:
        """Stop in the middle of an epoch if there was a signal."""
        trainer = self.trainer
        # After the last iteration of an epoch, `after_epoch` stops when its checkpoint is written.
        if trainer.iter == (trainer.epoch + 1) * trainer.iters_per_epoch:
            return
        if comm.is_distributed() and trainer.iter % self._period:
            return
        if self._has_any_signal():
            self._stop()

    def after_epoch(self) -> None:
        """Stop after an epoch if there was a signal."""
        # A finished run is saved as model_final.pth and evaluated.
        if self.trainer.iter != self.trainer.max_iter and self._has_any_signal():
            self._stop()

    def _has_any_signal(self) -> bool:
        if not comm.is_distributed():
            return bool(self._signal)
        # nccl needs tensors on a GPU.
        device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
        return bool(comm.all_reduce_sum(torch.tensor([self._signal], device=device))[0])

    def _stop(self) -> NoReturn:
        """Save the run between two iterations, and end it."""
        trainer = self.trainer
        # "epoch" is the last one that is finished.
        values = progress_of(trainer) | {"epoch": trainer.iter // trainer.iters_per_epoch - 1}
        self._checkpointer.save(INTERRUPTED.removesuffix(".pth"), **values)
        raise Interrupted(
            f"stopped by a signal after iteration {trainer.iter} of {trainer.max_iter}; all of it is in "
            f"{self._checkpointer.save_dir / INTERRUPTED}. Continue with the same command and --resume"
        )
