"""Batch norm statistics over many batches instead of the running average of the last few (TEST.PRECISE_BN)."""

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
from fastreid.engine.trainer_base import HookBase
from fastreid.solver.ema import WeightAverage
from fastreid.utils import comm
from fastreid.utils.env import rng_state, set_rng_state

logger = logging.getLogger(__name__)


class Population:
    """Mean and variance [C] of all values of each channel so far, in float64 (Chan et al., 1979)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0.0, torch.zeros(()), torch.zeros(())

    def add(self, maps: Tensor) -> None:
        """Add the values of a batch [B, C, …]."""
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
        """The population of all processes together, the same in each."""
        count = comm.all_reduce_sum(torch.tensor([self.count], dtype=torch.float64, device=self.mean.device))
        mean = comm.all_reduce_sum(self.mean * self.count) / count
        whole = Population()
        whole.squares = comm.all_reduce_sum(self.squares + self.count * (self.mean - mean).square())
        whole.count, whole.mean = float(count), mean
        return whole

    @property
    def variance(self) -> Tensor:
        """Unbiased variance, as in running statistics."""
        return self.squares / max(self.count - 1, 1)


@torch.no_grad()
def update_statistics(model: nn.Module, batches: Iterable[dict[str, Any]]) -> list[str]:
    """Set the statistics of the batch norms of a model in training mode to those over ``batches``.

    Layers in eval mode (frozen ones) keep their statistics. Nothing else of the model changes, nor do random states.

    Args:
        model: the bare model.
        batches: the batches of this process; statistics are over those of all processes.

    Returns:
        Names of the buffers that were set.
    """
    backup, state = BufferBackup(model), rng_state()
    backup.remember()
    populations: dict[str, Population] = {}
    done: list[str] = []
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
        if not population.count:  # not used in training
            continue
        whole = population.over_processes()
        layers[name].get_buffer("running_mean").copy_(whole.mean)
        layers[name].get_buffer("running_var").copy_(whole.variance)
        done += [f"{name}.running_mean", f"{name}.running_var"]
    return done


def _watcher(population: Population) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    return lambda layer, inputs: population.add(inputs[0])


def norms_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Names and layers of a model that normalise by running statistics over the batch."""
    for name, layer in model.named_modules():
        is_batch_norm = isinstance(layer, nn.modules.batchnorm._NormBase) and not isinstance(
            layer, nn.modules.instancenorm._InstanceNorm
        )
        if is_batch_norm and layer.track_running_stats:
            yield name, layer


class PreciseBN(HookBase):
    """Computes batch norm statistics after the last iteration, before its checkpoint and evaluation.

    With averaged weights they are the statistics of the averages, which are evaluated.

    Args:
        model: the bare model.
        data_loader: a separate loader, so that the training order does not change.
        num_iter: number of batches.
        num_classes: classes of the model, if the loader may have people of other data sets.
        average: the averaged weights of the run, if there are any.

    Raises:
        ConfigError: no batches, or the model has no batch norm.
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
        if num_iter < 1:
            raise ConfigError(f"TEST.PRECISE_BN.NUM_ITER is a number of batches, 1 or more, got {num_iter}")
        if not any(True for _ in norms_of(model)):
            raise ConfigError(f"TEST.PRECISE_BN is enabled, but {type(model).__name__} has no batch norm")
        self._model, self._data_loader, self._num_iter = model, data_loader, num_iter
        self._num_classes, self._average = num_classes, average

    def after_step(self) -> None:
        """Compute the statistics after the last iteration."""
        # In the last iteration, not after its epoch: a signal is then handled after the checkpoint.
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
            # People of another data set have no class here. The losses are not used, but must not fail.
            if self._num_classes:
                batch = {**batch, "targets": batch["targets"] % self._num_classes}
            yield from split_batch(batch, self.trainer.accumulation_steps)
