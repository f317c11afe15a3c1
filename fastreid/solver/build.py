"""fast-reid's place for the functions that build optimisers and schedules; they are in the package."""

from fastreid.solver.optimizer import build_optimizer
from fastreid.solver.schedule import build_lr_scheduler

__all__ = ["build_lr_scheduler", "build_optimizer"]
