"""What fast-reid's `build_optimizer` and `build_lr_scheduler` return, as other forms of the objects of this library."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch

if TYPE_CHECKING:
    from fastreid.solver.schedule import LRSchedule

T = TypeVar("T", bound=torch.optim.Optimizer)
Kind = Any
"""A class of optimisers."""

WARMUP, EPOCHS = "warmup_sched", "lr_sched"
"""Names of fast-reid's two schedulers, one for the iterations of the warm-up and one for epochs."""


def usable_as_pair(optimizer: T) -> T:
    """Let `optimizer, param_groups = optimizer` unpack an optimiser, as users of fast-reid do; return the optimiser."""
    kind: Kind = type(optimizer)
    optimizer.__class__ = _with_iter(kind)
    return optimizer


@functools.cache
def _with_iter(kind: Kind) -> Kind:
    """Return a subclass of the same name whose objects can be unpacked."""

    def iterate(self: torch.optim.Optimizer) -> Iterator[Any]:
        yield self
        yield self.param_groups

    def reduce(self: torch.optim.Optimizer) -> tuple[Any, ...]:  # pickle finds the original class by its name
        return _empty, (kind,), self.__getstate__()

    return type(kind.__name__, (kind,), {"__iter__": iterate, "__reduce__": reduce, "__module__": kind.__module__})


def _empty(kind: Kind) -> torch.optim.Optimizer:
    return object.__new__(_with_iter(kind))


class ScheduleSteps:
    """The two schedulers of fast-reid, in a loop that calls their `step` as fast-reid's loops do.

    The rate of a group is warm-up(steps of "warmup_sched") x curve(steps of "lr_sched"). If a loop makes its first step
    of epochs later than the trainer does, the curve begins later, too.

    Args:
        schedule: sets the rates.
        plateau: epochs before the first step of the curve.
    """

    def __init__(self, schedule: LRSchedule, plateau: int) -> None:
        self._schedule, self._plateau = schedule, plateau
        self.counts = dict.fromkeys([EPOCHS, WARMUP] if schedule.warmup_iters else [EPOCHS], 0)

    def set_count(self, name: str, count: int) -> None:
        """Set the number of steps of one of the schedulers, and the rates."""
        self.counts[name] = count
        self._schedule.set_parts(self.counts.get(WARMUP, 0), self._plateau - 1 + self.counts[EPOCHS])

    def __getitem__(self, name: str) -> ScheduleStep:
        if name not in self.counts:
            raise KeyError(f"this schedule has {' and '.join(self.counts)}, no {name!r}")
        return ScheduleStep(self, name)


class ScheduleStep:
    """One of the two schedulers of fast-reid.

    Args:
        steps: both.
        name: which of them.
    """

    def __init__(self, steps: ScheduleSteps, name: str) -> None:
        self._steps, self._name = steps, name

    def step(self) -> None:
        """Set the rates of the next iteration of the warm-up, or of the next epoch after it."""
        self._steps.set_count(self._name, self._steps.counts[self._name] + 1)

    def state_dict(self) -> dict[str, int]:
        """Return the number of steps."""
        return {"steps": self._steps.counts[self._name]}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at a saved number of steps. Call it after `load_state_dict` of the optimiser."""
        self._steps.set_count(self._name, state["steps"])
