"""The learning rate of each iteration: warm-up per iteration, then a curve per epoch."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fastreid.config import ConfigError
from fastreid.solver.milestones import plateau_epochs, with_shares
from fastreid.solver.pairs import ScheduleStep, ScheduleSteps
from fastreid.utils.registry import Registry
from fastreid.utils.suggest import explain_choice

SCHEDULE_REGISTRY = Registry("SOLVER.SCHED")
"""Name -> function (cfg, iters_per_epoch) -> Curve."""

Curve = Callable[[float, int], float]
"""(base lr, epoch counted from 0) -> lr after warm-up."""

WARMUP_METHODS = ("constant", "linear", "exp")
_WITH_PLATEAU = ("MultiStepLR", "CosineAnnealingLR", "LinearLR")  # whose curves count epochs from its end


@dataclass(frozen=True)
class Warmup:
    """Factor of the learning rate in the first iterations; 1 from then on.

    With a = iteration / iterations it is: constant: factor; linear: factor (1 - a) + a; exp: factor^(1 - a).

    Args:
        iterations: length of the warm-up; epochs if the schedule warms up by epochs.
        factor: factor of the first iteration.
        method: "constant", "linear" or "exp".

    Raises:
        ConfigError: another method.
    """

    iterations: int
    factor: float
    method: str = "linear"

    def __post_init__(self) -> None:
        if self.method not in WARMUP_METHODS:
            raise ConfigError(explain_choice("SOLVER.WARMUP_METHOD", self.method, WARMUP_METHODS))

    def __call__(self, iteration: int) -> float:
        """Return the factor of an iteration, from 0."""
        if iteration >= self.iterations:
            return 1.0
        alpha = iteration / self.iterations
        if self.method == "constant":
            return self.factor
        if self.method == "linear":
            return self.factor * (1 - alpha) + alpha
        return self.factor ** (1 - alpha)


class LRSchedule:
    """Sets the learning rate of every group of an optimiser: warm-up(iteration) x curve(epoch).

    Its only state is the iteration, so a resumed run has the rates of an uninterrupted one.

    It is also the dict that fast-reid returns: `schedule["warmup_sched"].step()` after each iteration of the warm-up,
    `schedule["lr_sched"].step()` after each epoch that is neither in the warm-up nor delayed.

    Args:
        optimizer: its groups hold their base rates.
        warmup: factor of each iteration.
        curve: rate of each epoch.
        iters_per_epoch: iterations of an epoch.
        plateau: epochs before the first `schedule["lr_sched"].step()`; 0 for a curve that counts all epochs.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        warmup: Warmup,
        curve: Curve,
        iters_per_epoch: int,
        plateau: int = 0,
    ) -> None:
        if iters_per_epoch < 1:
            raise ValueError(f"iters_per_epoch must be at least 1, got {iters_per_epoch}")
        self._optimizer = optimizer
        self._warmup, self._curve = warmup, curve
        self._iters_per_epoch = iters_per_epoch
        self._steps = ScheduleSteps(self, plateau) if plateau else None
        self._base_lrs = [group["lr"] for group in optimizer.param_groups]
        self.set_iteration(0)

    def lr_at(self, iteration: int, *, group: int = 0) -> float:
        """Return the learning rate of parameter group number ``group`` in ``iteration`` (from 0)."""
        epoch = iteration // self._iters_per_epoch
        return self._warmup(iteration) * self._curve(self._base_lrs[group], epoch)

    @property
    def base_lr(self) -> float:
        """The base rate of the first parameter group."""
        return self._base_lrs[0]

    @property
    def warmup_iters(self) -> int:
        """Iterations of the warm-up; 0 if the schedule warms up by epochs."""
        return self._warmup.iterations

    def set_parts(self, iteration: int, epoch: int) -> None:
        """Set the rate of every parameter group to the warm-up of an iteration times the curve of an epoch."""
        for group, base_lr in zip(self._optimizer.param_groups, self._base_lrs, strict=True):
            group["lr"] = self._warmup(iteration) * self._curve(base_lr, epoch)

    def keys(self) -> list[str]:
        """Return fast-reid's names of the schedulers: by epochs, and of the warm-up if there is one."""
        return list(self._two_schedulers().counts)

    def __getitem__(self, name: str) -> ScheduleStep:
        """Return one of fast-reid's schedulers, which steps this schedule.

        Raises:
            KeyError: neither "lr_sched" nor, with a warm-up, "warmup_sched".
            ConfigError: SOLVER.SCHED does not count epochs from the end of the warm-up.
        """
        return self._two_schedulers()[name]

    def _two_schedulers(self) -> ScheduleSteps:
        if self._steps is None:
            raise ConfigError(
                "this SOLVER.SCHED has no schedulers to step, as it counts all epochs: call set_iteration(iteration) "
                f"before each iteration, or take one of {', '.join(_WITH_PLATEAU)}"
            )
        return self._steps

    def peak(self, num_iterations: int) -> tuple[float, int]:
        """Return the highest rate of the first group in a run, and the first iteration (from 0) that has it.

        Args:
            num_iterations: iterations of the run, at least 1.
        """
        # In an epoch after the warm-up the rate is constant.
        warm = min(self._warmup.iterations + 1, num_iterations)
        tried = [*range(warm), *range(0, num_iterations, self._iters_per_epoch)]
        best = max(tried, key=lambda iteration: (self.lr_at(iteration), -iteration))
        return self.lr_at(best), best

    def set_iteration(self, iteration: int) -> None:
        """Set the rate of every parameter group to that of ``iteration``."""
        self._iteration = iteration
        for index, group in enumerate(self._optimizer.param_groups):
            group["lr"] = self.lr_at(iteration, group=index)

    def state_dict(self) -> dict[str, int]:
        """Return the iteration; the rates always come from the config."""
        return {"iteration": self._iteration}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at the saved iteration. Call it after `load_state_dict` of the optimiser."""
        self.set_iteration(state["iteration"])


def decayed(lr: float, epoch: int, *, milestones: Sequence[int], rate: float) -> float:
    """Return ``lr`` times ``rate`` for each of the milestones that ``epoch`` has reached."""
    return lr * rate ** bisect_right(sorted(milestones), epoch)


@SCHEDULE_REGISTRY.register(name="MultiStepLR")
def _multi_step(cfg: Any, iters_per_epoch: int) -> Curve:
    plateau, solver = plateau_epochs(cfg, iters_per_epoch), cfg.SOLVER

    def curve(lr: float, epoch: int) -> float:
        steps = max(0, epoch + 1 - plateau)
        return decayed(lr, steps, milestones=solver.STEPS, rate=solver.GAMMA)

    return curve


@SCHEDULE_REGISTRY.register(name="EpochWarmupMultiStepLR")
def _epoch_warmup(cfg: Any, iters_per_epoch: int) -> Curve:
    """CLIP-ReID's and DCAC's, by epochs e from 1: warm-up while e < WARMUP_EPOCHS, x GAMMA from each of STEPS on."""
    solver, warmup = cfg.SOLVER, _warmup_by_epochs(cfg)

    def curve(lr: float, epoch: int) -> float:
        return warmup(epoch + 1) * decayed(lr, epoch + 1, milestones=solver.STEPS, rate=solver.GAMMA)

    return curve


@SCHEDULE_REGISTRY.register(name="EpochWarmupCosineLR")
def _epoch_warmup_cosine(cfg: Any, iters_per_epoch: int) -> Curve:
    """By epochs e from 1: warm-up while e < WARMUP_EPOCHS, whatever the size of the data, then the cosine."""
    warmup, cosine = (
        _warmup_by_epochs(cfg),
        _cosine_after(max(cfg.SOLVER.WARMUP_EPOCHS, cfg.SOLVER.DELAY_EPOCHS, 1), cfg),
    )

    def curve(lr: float, epoch: int) -> float:
        return warmup(epoch + 1) * cosine(lr, epoch)

    return curve


def _warmup_by_epochs(cfg: Any) -> Warmup:
    solver = cfg.SOLVER
    if solver.WARMUP_ITERS > 0:
        raise ConfigError(
            f"SOLVER.SCHED {solver.SCHED} warms up by epochs (SOLVER.WARMUP_EPOCHS): set SOLVER.WARMUP_ITERS 0, "
            f"got {solver.WARMUP_ITERS}"
        )
    return Warmup(solver.WARMUP_EPOCHS, solver.WARMUP_FACTOR, solver.WARMUP_METHOD)


@SCHEDULE_REGISTRY.register(name="CosineAnnealingLR")
def _cosine(cfg: Any, iters_per_epoch: int) -> Curve:
    """ETA + (lr - ETA)(1 + cos(pi k / K)) / 2 after k of K steps; the last epoch runs at ETA."""
    return _cosine_after(plateau_epochs(cfg, iters_per_epoch), cfg)


def _cosine_after(plateau: int, cfg: Any) -> Curve:
    lowest, total = cfg.SOLVER.ETA_MIN_LR, max(1, cfg.SOLVER.MAX_EPOCH - plateau)

    def curve(lr: float, epoch: int) -> float:
        progress = min(max(0, epoch + 1 - plateau), total) / total
        return lowest + (lr - lowest) * (1 + math.cos(math.pi * progress)) / 2

    return curve


@SCHEDULE_REGISTRY.register(name="LinearLR")
def _linear(cfg: Any, iters_per_epoch: int) -> Curve:
    """lr + (ETA - lr) k / K after k of K steps; the last epoch runs at ETA."""
    plateau, lowest = plateau_epochs(cfg, iters_per_epoch), cfg.SOLVER.ETA_MIN_LR
    total = max(1, cfg.SOLVER.MAX_EPOCH - plateau)

    def curve(lr: float, epoch: int) -> float:
        return lr + (lowest - lr) * min(max(0, epoch + 1 - plateau), total) / total

    return curve


@SCHEDULE_REGISTRY.register(name="LinearWarmupMultiStepDecayLRScheduler")
def _multi_step_decay(cfg: Any, iters_per_epoch: int) -> Curve:
    """SD-ReID stage 2: x DECAY_RATE from each of DECAY_EPOCHS (counted from 0) on."""
    solver = cfg.SOLVER
    if solver.WARMUP_METHOD != "linear":
        raise ConfigError(
            f"SOLVER.SCHED {solver.SCHED} warms up linearly: SOLVER.WARMUP_METHOD must be linear, "
            f"not {solver.WARMUP_METHOD!r}"
        )

    def curve(lr: float, epoch: int) -> float:
        return decayed(lr, epoch, milestones=solver.DECAY_EPOCHS, rate=solver.DECAY_RATE)

    return curve


def build_lr_scheduler(cfg: Any, optimizer: torch.optim.Optimizer, iters_per_epoch: int) -> LRSchedule:
    """Return the schedule of a config.

    Args:
        cfg: the config.
        optimizer: its groups hold their base rates.
        iters_per_epoch: iterations of an epoch.

    Raises:
        RegistryError: unknown SOLVER.SCHED; the message has near matches.
        ConfigError: unknown SOLVER.WARMUP_METHOD, or one that the schedule does not have; or SOLVER.WARMUP_SHARE or
            STEP_SHARES, which the schedule does not read.
    """
    make = SCHEDULE_REGISTRY.get(cfg.SOLVER.SCHED)
    cfg = with_shares(cfg, iters_per_epoch)
    solver = cfg.SOLVER
    warmup = Warmup(solver.WARMUP_ITERS, solver.WARMUP_FACTOR, solver.WARMUP_METHOD)
    return LRSchedule(
        optimizer,
        warmup=warmup,
        curve=make(cfg, iters_per_epoch),
        iters_per_epoch=iters_per_epoch,
        plateau=plateau_epochs(cfg, iters_per_epoch) if solver.SCHED in _WITH_PLATEAU else 0,
    )
