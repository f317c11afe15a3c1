"""Epochs at which learning rates change; warm-up and milestones as shares of a run; schedules that do not fit a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from fastreid.config import ConfigError, with_values

if TYPE_CHECKING:
    from fastreid.solver.schedule import LRSchedule

_FULL = 0.9  # share of a rate that counts as the whole: a curve falls a little in the first epoch after the warm-up


def plateau_epochs(cfg: Any, iters_per_epoch: int) -> int:
    """Return the number of first epochs at the full rate: warm-up or DELAY_EPOCHS, whichever ends later; at least 1.

    As in fast-reid the curve then makes one step per epoch: it counts epochs, and with them SOLVER.STEPS, from the end
    of the plateau.

    Args:
        cfg: the config.
        iters_per_epoch: iterations of an epoch.
    """
    return max(math.ceil(cfg.SOLVER.WARMUP_ITERS / iters_per_epoch), cfg.SOLVER.DELAY_EPOCHS, 1)


# Schedule -> its key of milestones, and the first epoch (from 0) of milestone 0.
_MILESTONES: dict[str, tuple[str, Callable[[Any, int], int]]] = {
    "MultiStepLR": ("STEPS", lambda cfg, iters_per_epoch: plateau_epochs(cfg, iters_per_epoch) - 1),
    "EpochWarmupMultiStepLR": ("STEPS", lambda cfg, iters_per_epoch: -1),
    "LinearWarmupMultiStepDecayLRScheduler": ("DECAY_EPOCHS", lambda cfg, iters_per_epoch: 0),
}


def with_shares(cfg: Any, iters_per_epoch: int) -> Any:
    """Return the config with SOLVER.WARMUP_ITERS and STEPS computed from WARMUP_SHARE and STEP_SHARES.

    Args:
        cfg: the config.
        iters_per_epoch: iterations of an epoch.

    Raises:
        ConfigError: the schedule does not warm up by iterations, or has no SOLVER.STEPS.
    """
    solver = cfg.SOLVER
    if solver.WARMUP_SHARE > 0:
        if solver.SCHED.startswith("EpochWarmup"):
            raise ConfigError(
                f"SOLVER.SCHED {solver.SCHED} warms up by epochs: set SOLVER.WARMUP_SHARE 0 and WARMUP_EPOCHS"
            )
        iterations = round(solver.WARMUP_SHARE * solver.MAX_EPOCH * iters_per_epoch)
        cfg = with_values(cfg, {"SOLVER.WARMUP_ITERS": iterations})
    if solver.STEP_SHARES:
        key, first_epoch = _MILESTONES.get(solver.SCHED, ("", None))
        if key != "STEPS" or first_epoch is None:
            legal = " or ".join(name for name, (key, _) in _MILESTONES.items() if key == "STEPS")
            raise ConfigError(f"SOLVER.STEP_SHARES is read by SOLVER.SCHED {legal}, not by {solver.SCHED}")
        begin = first_epoch(cfg, iters_per_epoch)
        steps = [max(0, round(share * solver.MAX_EPOCH) - begin) for share in solver.STEP_SHARES]
        cfg = with_values(cfg, {"SOLVER.STEPS": steps})
    return cfg


def misfits(cfg: Any, schedule: LRSchedule, iters_per_epoch: int) -> Iterator[str]:
    """Yield a sentence for each part of a schedule that does not fit the length of the run.

    Args:
        cfg: the config.
        schedule: its schedule.
        iters_per_epoch: iterations of an epoch.
    """
    cfg = with_shares(cfg, iters_per_epoch)
    solver, total = cfg.SOLVER, cfg.SOLVER.MAX_EPOCH * iters_per_epoch
    epochs = f"{solver.MAX_EPOCH} epochs of {iters_per_epoch} iterations"
    if solver.WARMUP_ITERS >= total:
        yield (
            f"the warm-up has SOLVER.WARMUP_ITERS {solver.WARMUP_ITERS} iterations, and the whole run {total} "
            f"({epochs}); SOLVER.WARMUP_SHARE 0.1 fits any run"
        )
    key, first_epoch = _MILESTONES.get(solver.SCHED, ("", None))
    if first_epoch is not None:
        begin = first_epoch(cfg, iters_per_epoch)
        if late := [step for step in solver[key] if step + begin >= solver.MAX_EPOCH]:
            counted = f", counted from epoch {begin + 1}" if begin > 0 else ""
            shares = "; SOLVER.STEP_SHARES [0.5, 0.8] fits any run" if key == "STEPS" else ""
            yield (
                f"SOLVER.{key} has {', '.join(map(str, late))}{counted}, after the end of the run ({epochs}): the rate "
                f"is not lowered there{shares}"
            )
    peak, _ = schedule.peak(total)
    if peak < _FULL * schedule.base_lr:
        yield (
            f"the learning rate never reaches its full value: the highest is {peak:.3g} of {schedule.base_lr:.3g} "
            f"({epochs})"
        )
