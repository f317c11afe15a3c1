"""What a run does when it is asked to stop: it saves all of its work, says how to go on, and ends."""

from __future__ import annotations

import logging
import signal
import threading
import time
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from fastreid.engine.train_loop import EvaluationCut, HookBase, progress_of
from fastreid.utils import comm
from fastreid.utils.checkpoint import INTERRUPTED, Checkpointer

logger = logging.getLogger(__name__)

# With several processes a request to stop may arrive twice: from the scheduler, and passed on by the launcher.
_SECONDS_OF_ONE_REQUEST = 3.0


class Interrupted(SystemExit):
    """A run that was asked to stop, and has saved its state."""


class StopOnSignal(HookBase):
    """SIGTERM or Ctrl-C: finish the iteration, write model_interrupted.pth, say how to go on, and stop.

    After the last iteration of an epoch its checkpoint is written first. An evaluation is not waited for: the resumed
    run makes up for it. The second signal stops at once. With several processes all look every ``period`` iterations
    whether one was asked to stop, so that they stop at the same one; an evaluation is finished there.

    It comes after PeriodicCheckpointer and before EvalHook.
    """

    def __init__(self, checkpointer: Checkpointer, *, period: int = 10) -> None:
        self._checkpointer, self._period = checkpointer, period
        self._told, self._told_at = 0, 0.0
        self._before: dict[int, Any] = {}

    def before_train(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # only there may signals be handled
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._remember)

    def after_train(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            # A launcher may pass the same request on only now.
            signal.signal(number, signal.SIG_IGN if self._told and comm.is_distributed() else handler)

    def _remember(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if self._told:
            if comm.is_distributed() and now - self._told_at < _SECONDS_OF_ONE_REQUEST:
                return
            raise KeyboardInterrupt
        self._told, self._told_at = number, now
        if self.trainer.is_evaluating and not comm.is_distributed():
            raise EvaluationCut(self._stop)
        logger.warning("%s: stopping soon; once more stops at once", signal.Signals(number).name)

    def between_steps(self) -> None:
        trainer = self.trainer
        # Of the last iteration of an epoch `after_epoch` takes care, when the epoch's checkpoint is written.
        if trainer.iter == (trainer.epoch + 1) * trainer.iters_per_epoch:
            return
        if comm.is_distributed() and trainer.iter % self._period:
            return
        if self._is_anyone_told():
            self._stop()

    def after_epoch(self) -> None:
        # A run that is done is kept as model_final.pth, and evaluated.
        if self.trainer.iter != self.trainer.max_iter and self._is_anyone_told():
            self._stop()

    def _is_anyone_told(self) -> bool:
        if not comm.is_distributed():
            return bool(self._told)
        # Where nccl wants its numbers.
        device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
        return bool(comm.all_reduce_sum(torch.tensor([self._told], device=device))[0])

    def _stop(self) -> NoReturn:
        """Save the run as it is between two iterations, and end it."""
        trainer = self.trainer
        # Of an epoch that is not done, the one before is the last.
        values = progress_of(trainer) | {"epoch": trainer.iter // trainer.iters_per_epoch - 1}
        self._checkpointer.save(INTERRUPTED.removesuffix(".pth"), **values)
        raise Interrupted(
            f"stopped by a signal after iteration {trainer.iter} of {trainer.max_iter}; all of it is in "
            f"{self._checkpointer.save_dir / INTERRUPTED}. Go on with the same command and --resume"
        )
