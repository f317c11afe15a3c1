"""PeriodicCheckpointer of plain training loops, with fast-reid's interface; trainers use the hook of this name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastreid.utils.checkpoint import Checkpointer

_STEM = "model"


class PeriodicCheckpointer:
    """Saves a checkpoint every `period` epochs, the best one, and the last one, in a training loop of a user.

    Files are called model_NNNN.pth, model_best.pth and model_final.pth. As in fast-reid, the best one is chosen among
    the epochs in which a checkpoint is saved. Every process calls the methods.

    Args:
        checkpointer: writes the files.
        period: epochs between two checkpoints.
        max_epoch: epochs of the run; None if it is not known, then no model_final.pth is written.
    """

    def __init__(self, checkpointer: Checkpointer, period: int, max_epoch: int | None = None) -> None:
        self.checkpointer, self.period, self.max_epoch = checkpointer, int(period), max_epoch
        self.best_metric = -float("inf")

    def step(self, epoch: int, **kwargs: Any) -> None:
        """Save what is due after an epoch.

        Args:
            epoch: the epoch that was finished, from 0.
            kwargs: further values of plain types; with `metric`, the highest one so far is the best.
        """
        values = {"epoch": int(epoch), **kwargs}
        is_last = self.max_epoch is not None and epoch >= self.max_epoch - 1
        if not is_last and (self.period < 1 or (epoch + 1) % self.period):
            return
        if values.get("metric", -float("inf")) > self.best_metric:
            self.best_metric = values["metric"]
            self.checkpointer.save(f"{_STEM}_best", is_last=False, **values)
        self.checkpointer.save(f"{_STEM}_final" if is_last else f"{_STEM}_{epoch:04d}", **values)

    def save(self, name: str, **kwargs: Any) -> None:
        """Save a checkpoint now.

        Args:
            name: its name, without .pth.
            kwargs: further values of plain types.
        """
        self.checkpointer.save(name, **kwargs)
