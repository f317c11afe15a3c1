"""One training step: data, forward, backward, clipping, optimiser."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fastreid.engine.accumulation import split_batch
from fastreid.engine.nonfinite import ADVICE, BufferBackup, DivergenceError, describe, gradient_norm
from fastreid.engine.trainer_base import HookBase, TrainerBase
from fastreid.solver.gradients import Clipper
from fastreid.utils import comm
from fastreid.utils.env import rng_state
from fastreid.utils.errors import UserError

__all__ = ["HookBase", "SimpleTrainer", "TrainerBase", "UntrainedError"]

logger = logging.getLogger(__name__)


class UntrainedError(UserError, RuntimeError):
    """Parameters without a gradient in a run of several processes."""


@runtime_checkable
class _DefersSync(Protocol):
    """A distributed wrapper that can postpone the exchange of gradients."""

    def no_sync(self) -> contextlib.AbstractContextManager[None]:
        """Gradients of the block stay in this process."""
        ...


class SimpleTrainer(TrainerBase):
    """One iteration: data, forward, backward, clipping, optimiser step.

    Args:
        model: ``model(batch)`` returns {name: scalar loss}.
        data_loader: an endless loader.
        optimizer: the optimiser.
        autocast: returns the context of the forward pass.
        scaler: the gradient scaler of fp16.
        clip_gradients: clips the gradients of the parameters.
        accumulation_steps: number of equal parts in which a batch passes through the model.
        max_nonfinite: number of consecutive steps that may be skipped because a loss or a gradient is not finite.
    """

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

        If losses or gradients are not finite in any process, all processes skip the step: weights, optimiser and
        buffers stay the same, and a warning says what was not finite.

        Raises:
            DivergenceError: more than ``max_nonfinite`` such steps in a row.
            RuntimeError: the loader ended.
        """
        start = time.perf_counter()
        batch = self._next_batch()
        data_time = time.perf_counter() - start
        self._buffers.remember()
        if not self.nonfinite_in_a_row:
            self.random_before = rng_state()  # before the first of consecutive skipped steps, where a run resumes
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
        # In fp16 the scale may be too large, which the scaler corrects; at 1 it is not.
        is_scale = overflowed and self.scaler.is_enabled() and self.scaler.get_scale() > 1
        if not all(map(math.isfinite, means)) or (overflowed and not is_scale):
            self.took_step = False
            self._skip(describe(self.model, names, values, parts))
            return
        self.nonfinite_in_a_row = 0
        scalars: dict[str, Any] = {"total_loss": sum(means), **dict(zip(names, means, strict=True))}
        self.storage.put_scalars(**scalars, data_time=data_time)
        if self.clip_gradients is not None:
            self.clip_gradients(self._parameters(), norm)
        (self.scaler.step(self.optimizer) if overflowed else self.optimizer.step())  # the scaler waits for the GPU
        self.scaler.update()
        self.took_step = not overflowed
        self.optimizer.zero_grad(set_to_none=True)

    def _check_all_are_trained(self) -> None:
        """Raise an error instead of waiting for the gradient of a parameter that has none."""
        idle = [name for name, p in self.model.named_parameters() if p.requires_grad and p.grad is None]
        if idle:
            named = f"{', '.join(idle[:8])}{' …' if idle[8:] else ''}"
            raise UntrainedError(
                f"{len(idle)} parameters have no part in the loss: {named}. In a run of several processes every "
                "parameter must have one, or be frozen by requires_grad_(False) when the model is built"
            )

    def _next_batch(self) -> dict[str, Any]:
        if self._batches is None:
            # An iterator draws a seed; a resumed run creates one more iterator and must draw the same numbers.
            with torch.random.fork_rng(devices=[]):
                self._batches = iter(self.data_loader)
        try:
            return next(self._batches)
        except StopIteration:
            raise RuntimeError(
                f"the training loader ended at iteration {self.iter}; it must be endless "
                "(its sampler must start again by itself)"
            ) from None

    def _forward_backward(self, part: dict[str, Any], *, is_last: bool) -> dict[str, Tensor]:
        """The detached losses of one part of a batch; its gradients are added up."""
        # The processes exchange gradients once per update, with those of the last part.
        model = self.model
        waits = model.no_sync() if not is_last and isinstance(model, _DefersSync) else contextlib.nullcontext()
        with waits:
            with self.autocast():
                losses = self.model(part)
            # Parts are equal, so the mean of their means is that of the batch.
            self.scaler.scale(sum(losses.values()) / self.accumulation_steps).backward()
        return {name: loss.detach().float() for name, loss in losses.items()}

    def _agree(self, values: Tensor, norm: Tensor) -> list[float]:
        """Means over parts and processes of the losses [M, T] and of the norm of the gradients, the same in all.

        One tensor, so that there is one synchronisation with the GPU. A value that is not finite in one process makes
        the mean not finite.
        """
        mine = torch.cat([values.mean(dim=0), norm.float().to(values.device).reshape(1)])
        return (comm.all_reduce_sum(mine) / comm.get_world_size()).tolist()

    def _parameters(self) -> Iterator[nn.Parameter]:
        return (p for group in self.optimizer.param_groups for p in group["params"])

    def _skip(self, found: str | None) -> None:
        """Undo the forward pass, and log what this and other processes ``found``."""
        reports = [(rank, text) for rank, text in enumerate(comm.all_gather(found)) if text]
        self._buffers.restore()
        self.optimizer.zero_grad(set_to_none=True)
        if self.scaler.is_enabled():
            self.scaler.update(new_scale=self.scaler.get_scale())  # it is not too large
        self.nonfinite_steps += 1
        self.nonfinite_in_a_row += 1
        self.storage.put_totals(nonfinite_steps=self.nonfinite_steps)
        what = "; ".join(f"process {rank}: {text}" if comm.is_distributed() else text for rank, text in reports)
        what = what or "the norm of the gradients is beyond the range of float32"
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
        """Stop the run in all processes; the weights are those before the first of the skipped steps.

        Raises:
            DivergenceError: always.
        """
        raise DivergenceError(message)
