"""The loop over epochs and iterations, and the points at which hooks join it."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from fastreid.engine.accumulation import split_batch
from fastreid.engine.nonfinite import ADVICE, BufferBackup, DivergenceError, describe, gradient_norm
from fastreid.solver.gradients import Clipper
from fastreid.utils import comm
from fastreid.utils.env import rng_state
from fastreid.utils.errors import UserError
from fastreid.utils.events import EventStorage

logger = logging.getLogger(__name__)


class HookBase:
    """Something done at certain points of a run; ``self.trainer`` is set by ``register_hooks``."""

    trainer: TrainerBase

    def before_train(self) -> None:
        """Before the first iteration."""

    def after_train(self) -> None:
        """At the end, also when an error or Ctrl-C cut the run short."""

    def before_epoch(self) -> None:
        """Before each epoch."""

    def after_epoch(self) -> None:
        """After each epoch, number ``trainer.epoch``; ``trainer.iter`` counts all of it."""

    def before_step(self) -> None:
        """Before each iteration."""

    def after_backward(self) -> None:
        """Between the backward pass and the optimiser's step; gradients (fp16: scaled ones) may be changed."""

    def after_step(self) -> None:
        """After each iteration; ``trainer.iter`` is the one that ended."""

    def between_steps(self) -> None:
        """When all is done after an iteration; ``trainer.iter`` is the number of iterations done."""


class TrainerBase:
    """Runs ``run_step`` ``iters_per_epoch`` times an epoch, with hooks.

    ``iter`` and ``epoch`` count from 0 and name the current iteration and epoch; between them
    ``iter`` is the number of iterations done.
    """

    # Of trainers that have them.
    model: nn.Module
    optimizer: torch.optim.Optimizer
    data_loader: Any
    took_step = True  # whether the last iteration changed the weights
    started_from: str | None = None  # checksum of the weights that the run started from
    identity: dict[str, Any] | None = None  # what the run trains on
    changed_at_resume: Sequence[str] = ()
    accumulation_steps = 1
    _batches: Iterator[dict[str, Any]] | None = None
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext

    def __init__(self) -> None:
        self.hooks: list[HookBase] = []
        self.storage = EventStorage()
        self.iter = self.epoch = self.start_epoch = self.start_iter = 0
        self.max_epoch, self.iters_per_epoch = 0, 1
        # The last evaluation, and the best one so far; hooks set them.
        self.results: Any = {}
        self.best_metric: float | None = None
        self.best_iteration: int | None = None
        self.is_evaluating = False
        # Steps that were skipped because a loss or a gradient was not finite: in the run, and the last ones in a row.
        self.nonfinite_steps = self.nonfinite_in_a_row = 0

    @property
    def max_iter(self) -> int:
        """Iterations of the whole run."""
        return self.max_epoch * self.iters_per_epoch

    def register_hooks(self, hooks: Iterable[HookBase | None]) -> None:
        """Append hooks (None is skipped); they are called in this order at every point."""
        for hook in hooks:
            if hook is not None:
                hook.trainer = self
                self.hooks.append(hook)

    def train(self, start_epoch: int, max_epoch: int, iters_per_epoch: int, *, start_iter: int | None = None) -> None:
        """Run epochs ``start_epoch`` to ``max_epoch`` - 1, from iteration ``start_iter`` on if that is later."""
        self.start_epoch, self.max_epoch, self.iters_per_epoch = (
            start_epoch,
            max_epoch,
            iters_per_epoch,
        )
        self.start_iter = start_epoch * iters_per_epoch if start_iter is None else start_iter
        self.iter, self.epoch = self.start_iter, max(start_epoch - 1, 0)
        try:
            self._call("before_train")
            for self.epoch in range(start_epoch, max_epoch):
                self._run_epoch()
        except BaseException:
            self._clean_up()
            raise
        self._call("after_train")

    def _clean_up(self) -> None:
        """Call ``after_train`` of all hooks; what goes wrong there is logged and does not hide the first error."""
        for hook in self.hooks:
            try:
                hook.after_train()
            except Exception as error:
                what = f"{type(error).__name__}: {error}"
                logger.warning("%s.after_train failed, too: %s", type(hook).__name__, what)
                logger.debug("failed in after_train", exc_info=True)

    def _run_epoch(self) -> None:
        self._call("before_epoch")
        while self.iter < (self.epoch + 1) * self.iters_per_epoch:
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


class EvaluationCut(BaseException):
    """Raised by a signal in the middle of an evaluation; ``stop`` saves the run and ends it.

    It is to be called when what the evaluation changed, such as random states, is as before.
    """

    def __init__(self, stop: Callable[[], NoReturn]) -> None:
        super().__init__("stopped by a signal")
        self.stop = stop


def progress_of(trainer: TrainerBase) -> dict[str, Any]:
    """How far a run is, for its checkpoints."""
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


class UntrainedError(UserError, RuntimeError):
    """Parameters that no loss reaches in a run of several processes."""


class SimpleTrainer(TrainerBase):
    """One iteration: data, forward, backward, clipping, optimiser step."""

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[dict[str, Any]],
        optimizer: torch.optim.Optimizer,
        *,
        autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
        scaler: torch.amp.GradScaler | None = None,
        clip_gradients: Clipper | None = None,
        accumulation_steps: int = 1,
        max_nonfinite: int = 0,
    ) -> None:
        """``model(batch)`` returns {name: scalar loss}; ``data_loader`` is endless.

        ``autocast`` makes the context of the forward pass; ``scaler`` is for fp16. A batch goes through the model in
        ``accumulation_steps`` equal parts. Up to ``max_nonfinite`` steps in a row may be skipped because a loss or a
        gradient is not finite.
        """
        super().__init__()
        self.model, self.data_loader, self.optimizer = model, data_loader, optimizer
        self.autocast, self.clip_gradients = autocast, clip_gradients
        self.scaler = scaler or torch.amp.GradScaler(enabled=False)
        self.accumulation_steps, self.max_nonfinite = accumulation_steps, max_nonfinite
        self.took_step = True  # whether the last iteration changed the weights
        self._buffers = BufferBackup(model)
        self.random_before = rng_state()

    def run_step(self) -> None:
        """Draw a batch, take one optimiser step, put the losses and the data time into the storage.

        A step whose losses or gradients are not finite in any process is skipped in all: weights, optimiser and
        buffers are as before it, the warning says what was not finite.

        Raises:
            DivergenceError: more than ``max_nonfinite`` such steps in a row.
            RuntimeError: the loader ended.
        """
        start = time.perf_counter()
        batch = self._next_batch()
        data_time = time.perf_counter() - start
        self._buffers.remember()
        if not self.nonfinite_in_a_row:
            self.random_before = rng_state()  # of the first step of a row, which a resumed run takes again
        parts = split_batch(batch, self.accumulation_steps)
        rows = [self._forward_backward(part, is_last=part is parts[-1]) for part in parts]
        if comm.is_distributed() and self.iter == self.start_iter:
            self._check_all_are_trained()
        names, values = list(rows[0]), torch.stack([torch.stack(list(row.values())) for row in rows])
        self._call("after_backward")
        self.scaler.unscale_(self.optimizer)
        norm = gradient_norm(self._parameters())
        *means, mean_norm = self._agree(values, norm)
        overflowed = not math.isfinite(mean_norm)
        # fp16: gradients beyond its range are what the scaler is for; but no scale is too large at 1.
        is_scale = overflowed and self.scaler.is_enabled() and self.scaler.get_scale() > 1
        if not all(map(math.isfinite, means)) or (overflowed and not is_scale):
            self.took_step = False
            self._skip(describe(self.model, names, values, parts))
            return
        self.nonfinite_in_a_row = 0
        self.storage.put_scalars(total_loss=sum(means), **dict(zip(names, means, strict=True)), data_time=data_time)
        if self.clip_gradients is not None:
            self.clip_gradients(self._parameters(), norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.took_step = not overflowed
        self.optimizer.zero_grad(set_to_none=True)

    def _check_all_are_trained(self) -> None:
        """Processes would wait for each other for the gradient of a parameter that has none."""
        idle = [name for name, p in self.model.named_parameters() if p.requires_grad and p.grad is None]
        if idle:
            named = f"{', '.join(idle[:8])}{' …' if idle[8:] else ''}"
            raise UntrainedError(
                f"{len(idle)} parameters have no part in the loss: {named}. In a "
                "run of several processes every parameter must, or be frozen by requires_grad_(False) when the model "
                "is built"
            )

    def _next_batch(self) -> dict[str, Any]:
        if self._batches is None:
            # An iterator draws a seed; a resumed run makes one more, and must not differ by that.
            with torch.random.fork_rng(devices=[]):
                self._batches = iter(self.data_loader)
        try:
            return next(self._batches)
        except StopIteration:
            raise RuntimeError(
                f"the training loader ended at iteration {self.iter}; it must be endless "
                "(its sampler starts over by itself)"
            ) from None

    def _forward_backward(self, part: dict[str, Any], *, is_last: bool) -> dict[str, Tensor]:
        """The detached losses of one part of a batch; its gradients are added up."""
        # The processes exchange gradients once per update, with the last part's.
        waits = contextlib.nullcontext() if is_last else getattr(self.model, "no_sync", contextlib.nullcontext)()
        with waits:
            with self.autocast():
                losses = self.model(part)
            # Parts are equal, so the mean of their means is that of the batch.
            self.scaler.scale(sum(losses.values()) / self.accumulation_steps).backward()
        return {name: loss.detach().float() for name, loss in losses.items()}

    def _agree(self, values: Tensor, norm: Tensor) -> list[float]:
        """Means over parts and processes of the losses [M, T], and the norm of the gradients: the same in all.

        One tensor, so that a GPU is waited for once. What is not finite in one process is so in the mean.
        """
        mine = torch.cat([values.mean(dim=0), norm.float().to(values.device).reshape(1)])
        return (comm.all_reduce_sum(mine) / comm.get_world_size()).tolist()

    def _parameters(self) -> Iterator[nn.Parameter]:
        return (p for group in self.optimizer.param_groups for p in group["params"])

    def _skip(self, found: str | None) -> None:
        """Undo what the forward pass did, and say what this or another process ``found``."""
        reports = [(rank, text) for rank, text in enumerate(comm.all_gather(found)) if text]
        self._buffers.restore()
        self.optimizer.zero_grad(set_to_none=True)
        if self.scaler.is_enabled():
            self.scaler.update(new_scale=self.scaler.get_scale())  # the scale is not to blame
        self.nonfinite_steps += 1
        self.nonfinite_in_a_row += 1
        self.storage.put_totals(nonfinite_steps=self.nonfinite_steps)
        what = "; ".join(f"process {rank}: {text}" if comm.is_distributed() else text for rank, text in reports)
        what = what or "the gradients' norm is beyond the range of float32"
        scale = f", loss scale {self.scaler.get_scale():g}" if self.scaler.is_enabled() else ""
        where = f"iteration {self.iter} (epoch {self.epoch}), lr {self.optimizer.param_groups[0]['lr']:.3g}{scale}"
        if self.nonfinite_in_a_row > self.max_nonfinite:
            self.give_up(
                f"{where}: {what}. SOLVER.MAX_NONFINITE is {self.max_nonfinite}, and {self.nonfinite_in_a_row} steps "
                f"in a row were not finite ({self.nonfinite_steps} in the run). {ADVICE}"
            )
        if comm.is_main_process():
            logger.warning(
                "step skipped, %d in a row, %d in the run: %s: %s",
                self.nonfinite_in_a_row, self.nonfinite_steps, where, what,
            )  # fmt: skip

    def give_up(self, message: str) -> None:
        """Stop the run, in all processes alike; the weights are those from before the first of these steps.

        Raises:
            DivergenceError: always.
        """
        raise DivergenceError(message)
