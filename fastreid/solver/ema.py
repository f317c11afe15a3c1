"""The exponential moving average of a run's weights, which is evaluated in their place (SOLVER.EMA)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fastreid.config import ConfigError
from fastreid.utils.checkpoint_file import State


class WeightAverage:
    """average <- m average + (1 - m) weights, after each optimiser step; m = ``momentum``.

    With ``warmup`` m is at most (1 + t) / (10 + t) at step t, from 0: the first weights, which know nothing, are soon
    forgotten. Averaged are the parameters that require a gradient and buffers of decimals (running statistics, memory
    banks), as the weights belong to them; other buffers are taken as they are. Frozen parameters have no copy.
    """

    def __init__(self, model: nn.Module, *, momentum: float, warmup: bool) -> None:
        """``model`` is the bare model.

        Raises:
            ConfigError: a momentum outside of 0 … 1.
        """
        if not 0 <= momentum < 1:
            raise ConfigError(f"SOLVER.EMA.MOMENTUM is the share of the old average, from 0 to below 1, got {momentum}")
        self._model, self._momentum, self._warmup = model, momentum, warmup
        self.updates = 0
        self._averages: State = {}
        self._raw: State | None = None  # while the averages are in the model

    def restart(self) -> None:
        """The average is what the model is now."""
        self.updates = 0
        self._averages = {name: value.clone() for name, value in self._values().items()}

    def update(self) -> None:
        """Take in the model as it is after a step."""
        momentum, values = self._momentum_now(), self._values()
        self.updates += 1
        decimals = [name for name, value in values.items() if value.is_floating_point()]
        take_in = get_ema_multi_avg_fn(momentum)
        for group in _alike(values, decimals):
            take_in([self._averages[name] for name in group], [values[name] for name in group], None)
        for name in values.keys() - set(decimals):
            self._averages[name].copy_(values[name])

    def _momentum_now(self) -> float:
        t = self.updates
        return min(self._momentum, (1 + t) / (10 + t)) if self._warmup else self._momentum

    def _values(self) -> State:
        """What is averaged, by its name in the state dict; a shared parameter once."""
        buffers = {id(buffer) for buffer in self._model.buffers()}
        found: dict[int, tuple[str, Tensor]] = {}
        for name, value in self._model.state_dict(keep_vars=True).items():
            if isinstance(value, Tensor) and (value.requires_grad or id(value) in buffers):
                found.setdefault(id(value), (name, value.detach()))
        return dict(found.values())

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model holds the averages.

        A signal may stop the run at any moment of this, and a checkpoint is then written: until the raw weights are
        all back in the model, ``state_dict`` takes them from the copy.
        """
        self._raw = {name: value.clone() for name, value in self._values().items()}
        try:
            _copy(self._averages, self._values())
            yield
        finally:
            _copy(self._raw, self._values())
            self._raw = None

    def adopt(self, names: Iterable[str]) -> None:
        """Inside ``applied``: what was computed for the averaged model (its batch norm statistics) stays with it."""
        values = self._values()
        _copy({name: values[name] for name in names}, self._averages)

    def in_place_of(self, state: State) -> State:
        """A state dict of the model with the averages instead of the raw weights, shared ones under all their names."""
        own, averages = self._model.state_dict(keep_vars=True), {}
        by_id = {id(own[name]): average for name, average in self._averages.items()}
        for name in state:
            if id(own.get(name)) in by_id:
                averages[name] = by_id[id(own[name])]
        return state | averages

    def state_dict(self) -> dict[str, Any]:
        """The number of updates and the raw weights: a checkpoint's "model" holds the averages."""
        return {"updates": self.updates, "raw": self._values() if self._raw is None else self._raw}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the averages from the model, into which a checkpoint's "model" was loaded, and give it its raw weights.

        Raises:
            KeyError: the checkpoint is of another model.
        """
        self.restart()
        self.updates = state["updates"]
        _copy({name: state["raw"][name] for name in self._averages}, self._values())


def build_weight_average(cfg: Any, model: nn.Module) -> WeightAverage | None:
    """What SOLVER.EMA asks for; None if it is off."""
    keys = cfg.SOLVER.EMA
    return WeightAverage(model, momentum=keys.MOMENTUM, warmup=keys.WARMUP) if keys.ENABLED else None


def _alike(values: State, names: Iterable[str]) -> list[list[str]]:
    """Names of tensors that one kernel can take together."""
    groups: dict[tuple[torch.device, torch.dtype], list[str]] = {}
    for name in names:
        groups.setdefault((values[name].device, values[name].dtype), []).append(name)
    return list(groups.values())


@torch.no_grad()
def _copy(source: State, target: State) -> None:
    for name, value in source.items():
        target[name].copy_(value)
