"""The loop over epochs and iterations, and the six points at which hooks join it."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fastreid.utils import comm
from fastreid.utils.events import EventStorage


class HookBase:
    """Something done at the six points of a run; ``self.trainer`` is set by ``register_hooks``."""

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

    def after_step(self) -> None:
        """After each iteration; ``trainer.iter`` is the one that ended."""

    def between_steps(self) -> None:
        """When all is done after an iteration; ``trainer.iter`` is the number of iterations done."""


class TrainerBase:
    """Runs ``run_step`` ``iters_per_epoch`` times an epoch, with hooks.

    ``iter`` and ``epoch`` count from 0 and name the iteration and epoch under way; between them
    ``iter`` is the number of iterations done.
    """

    def __init__(self) -> None:
        self.hooks: list[HookBase] = []
        self.storage = EventStorage()
        self.iter = self.epoch = self.start_epoch = self.start_iter = 0
        self.max_epoch, self.iters_per_epoch = 0, 1
        self.is_between_epochs = False

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
        finally:
            self._call("after_train")

    def _run_epoch(self) -> None:
        self._call("before_epoch")
        self.is_between_epochs = False
        while self.iter < (self.epoch + 1) * self.iters_per_epoch:
            self._call("before_step")
            self.run_step()
            self._call("after_step")
            self.iter += 1
            self._call("between_steps")
        self.is_between_epochs = True
        self._call("after_epoch")

    def _call(self, point: str) -> None:
        for hook in self.hooks:
            getattr(hook, point)()

    def run_step(self) -> None:
        """One iteration."""
        raise NotImplementedError(f"{type(self).__name__} must define run_step")


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
        clip_gradients: Callable[[Iterable[nn.Parameter]], object] | None = None,
    ) -> None:
        """``model(batch)`` returns {name: scalar loss}; ``data_loader`` is endless.

        ``autocast`` makes the context of the forward pass; ``scaler`` is for fp16.
        """
        super().__init__()
        self.model, self.data_loader, self.optimizer = model, data_loader, optimizer
        self.autocast, self.clip_gradients = autocast, clip_gradients
        self.scaler = scaler or torch.amp.GradScaler(enabled=False)
        self._batches: Iterator[dict[str, Any]] | None = None

    def run_step(self) -> None:
        """Draw a batch, take one optimiser step, put the losses and the data time into the storage.

        Raises:
            FloatingPointError: a loss is not finite.
            RuntimeError: the loader ended.
        """
        start = time.perf_counter()
        batch = self._next_batch()
        data_time = time.perf_counter() - start
        with self.autocast():
            losses = self.model(batch)
        total = sum(losses.values())
        self._record(losses, batch, data_time)
        self.scaler.scale(total).backward()
        if comm.is_distributed() and self.iter == self.start_iter:
            self._check_all_are_trained()
        if self.clip_gradients is not None:
            self.scaler.unscale_(self.optimizer)
            self.clip_gradients(p for group in self.optimizer.param_groups for p in group["params"])
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _check_all_are_trained(self) -> None:
        """Processes would wait for each other for the gradient of a parameter that has none."""
        idle = [name for name, p in self.model.named_parameters() if p.requires_grad and p.grad is None]
        if idle:
            named = f"{', '.join(idle[:8])}{' …' if idle[8:] else ''}"
            raise RuntimeError(
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

    def _record(self, losses: dict[str, Tensor], batch: dict[str, Any], data_time: float) -> None:
        # One tensor, so that a GPU is waited for once; summed before any process can raise alone.
        values = torch.stack([loss.detach().float() for loss in losses.values()])
        means = (comm.all_reduce_sum(values) / comm.get_world_size()).tolist()
        if not all(map(math.isfinite, means)):
            own = dict(zip(losses, values.tolist(), strict=True))
            raise FloatingPointError(self._divergence(own, batch))
        named = dict(zip(losses, means, strict=True))
        self.storage.put_scalars(total_loss=sum(means), **named, data_time=data_time)

    def _divergence(self, losses: dict[str, float], batch: dict[str, Any]) -> str:
        bad = {name: value for name, value in losses.items() if not math.isfinite(value)}
        lr = self.optimizer.param_groups[0]["lr"]
        where = f"at iteration {self.iter} (epoch {self.epoch}), lr {lr:.3g}"
        if not bad:
            return f"a loss became non-finite in another process {where}"
        paths = ", ".join(map(str, batch.get("img_paths", [])[:3])) or "(no paths in the batch)"
        return (
            f"non-finite loss {where}: {bad} (all terms: {losses}); first images: {paths}. "
            "Lower SOLVER.BASE_LR, clip gradients, or set SOLVER.AMP.DTYPE fp32"
        )
