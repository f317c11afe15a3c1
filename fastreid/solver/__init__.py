"""Optimisers, learning-rate schedules and gradient clipping, chosen by the keys under SOLVER."""

from fastreid.solver.gradients import build_gradient_clipper
from fastreid.solver.optimizer import OPTIMIZER_REGISTRY, build_optimizer
from fastreid.solver.schedule import SCHEDULE_REGISTRY, LRSchedule, build_lr_scheduler

__all__ = [
    "OPTIMIZER_REGISTRY",
    "SCHEDULE_REGISTRY",
    "LRSchedule",
    "build_gradient_clipper",
    "build_lr_scheduler",
    "build_optimizer",
]
