"""Batch norm statistics of many batches instead of the running average of the last few (TEST.PRECISE_BN)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from fastreid.config import ConfigError
from fastreid.engine.accumulation import split_batch
from fastreid.engine.nonfinite import BufferBackup
from fastreid.engine.train_loop import HookBase
from fastreid.solver.ema import WeightAverage
from fastreid.utils import comm
from fastreid.utils.env import rng_state, set_rng_state

logger = logging.getLogger(__name__)


class Population:
    """Mean and variance [C] of all values of a channel that were ever shown, in float64 (Chan et al., 1979)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0.0, torch.zeros(()), torch.zeros(())

    def add(self, maps: Tensor) -> None:
        """Take in a batch [B, C, …]."""
        others = [axis for axis in range(maps.ndim) if axis != 1]
        variance, mean = torch.var_mean(maps.detach().float(), dim=others, correction=0)
        count = maps.numel() / maps.shape[1]
        self._merge(count, mean.double(), variance.double() * count)

    def _merge(self, count: float, mean: Tensor, squares: Tensor) -> None:
        if not self.count:
            self.count, self.mean, self.squares = count, mean, squares
            return
        total, step = self.count + count, mean - self.mean
        self.squares = self.squares + squares + step.square() * (self.count * count / total)
        self.mean = self.mean + step * (count / total)
        self.count = total

    def over_processes(self) -> Population:
        """That of all processes together, the same in each."""
        count = comm.all_reduce_sum(torch.tensor([self.count], dtype=torch.float64, device=self.mean.device))
        mean = comm.all_reduce_sum(self.mean * self.count) / count
        whole = Population()
        whole.squares = comm.all_reduce_sum(self.squares + self.count * (self.mean - mean).square())
        whole.count, whole.mean = float(count), mean
        return whole

    @property
    def variance(self) -> Tensor:
        """Unbiased, as running statistics are."""
        return self.squares / max(self.count - 1, 1)


@torch.no_grad()
def update_statistics(model: nn.Module, batches: Iterable[dict[str, Any]]) -> list[str]:
    """Show ``batches`` to a model in training mode, and give its batch norms the statistics of all of them.

    Layers in eval mode (frozen ones) keep theirs. Nothing else of the model changes, random states neither.

    Args:
        model: the bare model; several processes each show their own batches.

    Returns:
        Names of the buffers that were set.
    """
    backup, state = BufferBackup(model), rng_state()
    backup.remember()
    populations, done = {}, []
    with contextlib.ExitStack() as stack:
        for name, layer in norms_of(model):
            if layer.training:
                populations[name] = population = Population()
                watch = layer.register_forward_pre_hook(_watcher(population))
                stack.callback(watch.remove)
        for batch in batches:
            model(batch)
    backup.restore()
    set_rng_state(state)
    layers = dict(norms_of(model))
    for name, population in populations.items():
        if not population.count:  # not on the way of a training image
            continue
        whole = population.over_processes()
        layers[name].running_mean.copy_(whole.mean)
        layers[name].running_var.copy_(whole.variance)
        done += [f"{name}.running_mean", f"{name}.running_var"]
    return done


def _watcher(population: Population) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    return lambda layer, inputs: population.add(inputs[0])


def norms_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Layers that normalise by running statistics over the batch."""
    for name, layer in model.named_modules():
        is_batch_norm = isinstance(layer, nn.modules.batchnorm._NormBase) and not isinstance(
            layer, nn.modules.instancenorm._InstanceNorm
        )
        if is_batch_norm and layer.track_running_stats:
            yield name, layer


class PreciseBN(HookBase):
    """After the last iteration, before its checkpoint and evaluation: statistics of ``num_iter`` batches.

    With averaged weights they are those of the averages, which are what is evaluated.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[dict[str, Any]],
        num_iter: int,
        *,
        num_classes: int | None = None,
        average: WeightAverage | None = None,
    ) -> None:
        """``model`` is the bare model; ``data_loader`` one of its own, so that the training order does not change.

        ``num_classes``: of the model, if the loader's people may be others than those it is trained on.

        Raises:
            ConfigError: ``num_iter`` below 1, or a model without batch norm.
        """
        if not any(True for _ in norms_of(model)):
            raise ConfigError(f"TEST.PRECISE_BN is enabled, but {type(model).__name__} has no batch norm")
        self._model, self._data_loader, self._num_iter = model, data_loader, num_iter
        self._num_classes, self._average = num_classes, average

    def after_step(self) -> None:
        # In the last iteration, not after its epoch: a signal then waits until all of it is kept.
        trainer = self.trainer
        if trainer.iter + 1 != trainer.max_iter:
            return
        with self._average.applied() if self._average else contextlib.nullcontext(), trainer.autocast():
            names = update_statistics(self._model, self._batches())
            if self._average:
                self._average.adopt(names)
        if not names:
            logger.warning("TEST.PRECISE_BN changed nothing: all batch norms of the model are frozen")
        logger.info("statistics of %d batch norms from %d batches", len(names) // 2, self._num_iter)

    def _batches(self) -> Iterator[dict[str, Any]]:
        for batch in islice(self._data_loader, self._num_iter):
            # People of another data set have no class here. The losses are of no use, but must not fail.
            if self._num_classes:
                batch = {**batch, "targets": batch["targets"] % self._num_classes}
            yield from split_batch(batch, self.trainer.accumulation_steps)
