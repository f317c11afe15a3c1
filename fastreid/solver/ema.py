"""Exponential moving average of the weights of a run, which is evaluated instead of them (SOLVER.EMA)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fastreid.config import ConfigError
from fastreid.utils.checkpoint_file import State


class WeightAverage:
    """average <- m average + (1 - m) weights, after each optimiser step; m = ``momentum``.

    With ``warmup`` m is at most (1 + t) / (10 + t) at step t, from 0, so that the first weights soon have no influence.
    Parameters that require a gradient and floating-point buffers (running statistics, memory banks) are averaged;
    other buffers are copied. Frozen parameters have no copy.

    Args:
        model: the bare model.
        momentum: m.
        warmup: whether m is smaller in the first steps.

    Raises:
        ConfigError: a momentum outside 0 … 1.
    """

    def __init__(self, model: nn.Module, *, momentum: float, warmup: bool) -> None:
        if not 0 <= momentum < 1:
            raise ConfigError(f"SOLVER.EMA.MOMENTUM is the share of the old average, from 0 to below 1, got {momentum}")
        self._model, self._momentum, self._warmup = model, momentum, warmup
        self.updates = 0
        self._averages: State = {}
        self._raw: State | None = None  # while the averages are in the model

    def restart(self) -> None:
        """Set the average to the current weights."""
        self.updates = 0
        self._averages = {name: value.clone() for name, value in self._values().items()}

    @property
    def nbytes(self) -> int:
        """Bytes of the averages, whether they have been made or not."""
        return sum(value.nbytes for value in self._values().values())

    def update(self) -> None:
        """Update the average with the weights after a step."""
        momentum, values = self._momentum_now(), self._values()
        self.updates += 1
        decimals = [name for name, value in values.items() if value.is_floating_point()]
        average = get_ema_multi_avg_fn(momentum)
        for group in alike(values, decimals):
            average([self._averages[name] for name in group], [values[name] for name in group], None)
        for name in values.keys() - set(decimals):
            self._averages[name].copy_(values[name])

    def _momentum_now(self) -> float:
        t = self.updates
        return min(self._momentum, (1 + t) / (10 + t)) if self._warmup else self._momentum

    def _values(self) -> State:
        """Return the tensors that are averaged, by their names in the state dict; a shared parameter once."""
        buffers = {id(buffer) for buffer in self._model.buffers()}
        found: dict[int, tuple[str, Tensor]] = {}
        for name, value in self._model.state_dict(keep_vars=True).items():
            if isinstance(value, Tensor) and (value.requires_grad or id(value) in buffers):
                found.setdefault(id(value), (name, value.detach()))
        return dict(found.values())

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Context manager in which the model holds the averages.

        A signal may stop the run at any moment, and a checkpoint is then written. Until all raw weights are back in the
        model, ``state_dict`` takes them from a copy.
        """
        self._raw = {name: value.clone() for name, value in self._values().items()}
        try:
            _copy(self._averages, self._values())
            yield
        finally:
            _copy(self._raw, self._values())
            self._raw = None

    def adopt(self, names: Iterable[str]) -> None:
        """Copy tensors of the model (its batch norm statistics) into the averages; others than averaged are skipped."""
        values = self._values()
        _copy({name: values[name] for name in names if name in values}, self._averages)

    def in_place_of(self, state: State) -> State:
        """Return a state dict of the model with averages instead of raw weights, shared ones under all their names."""
        own: State = self._model.state_dict(keep_vars=True)
        averages: State = {}
        by_id = {id(own[name]): average for name, average in self._averages.items()}
        for name in state:
            if id(own.get(name)) in by_id:
                averages[name] = by_id[id(own[name])]
        return state | averages

    def state_dict(self) -> dict[str, Any]:
        """Return the number of updates and the raw weights; "model" in a checkpoint holds the averages."""
        return {"updates": self.updates, "raw": self._values() if self._raw is None else self._raw}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy the averages from the model, into which "model" of a checkpoint was loaded, and restore raw weights.

        Raises:
            KeyError: the checkpoint is of another model.
        """
        self.restart()
        self.updates = state["updates"]
        _copy({name: state["raw"][name] for name in self._averages}, self._values())


def build_weight_average(cfg: Any, model: nn.Module) -> WeightAverage | None:
    """Return the average of a config, or None if SOLVER.EMA is off."""
    keys = cfg.SOLVER.EMA
    return WeightAverage(model, momentum=keys.MOMENTUM, warmup=keys.WARMUP) if keys.ENABLED else None


def alike(values: Mapping[str, Tensor], names: Iterable[str]) -> list[list[str]]:
    """Return groups of names of tensors that one kernel can process: those of a device and a type.

    Args:
        values: tensors by name.
        names: names of some of them.
    """
    groups: dict[tuple[torch.device, torch.dtype], list[str]] = {}
    for name in names:
        groups.setdefault((values[name].device, values[name].dtype), []).append(name)
    return list(groups.values())


@torch.no_grad()
def _copy(source: State, target: State) -> None:
    for name, value in source.items():
        target[name].copy_(value)
