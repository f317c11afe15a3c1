"""Runs the epoch tasks of a model, and keeps their states and their plan for checkpoints."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastreid.config import ConfigError
from fastreid.engine.nonfinite import BufferBackup
from fastreid.engine.sharding import whole_weights
from fastreid.engine.trainer_base import HookBase
from fastreid.engine.training_loader import LoaderTrainingSet, MakeLoader, TrainingLoader
from fastreid.modeling.epoch_task import EpochPlan, EpochTask
from fastreid.solver.ema import WeightAverage
from fastreid.utils import comm


class EpochTasks(HookBase):
    """Runs each task before the epochs for which it is due.

    The main process does the work. Buffers of the model, states of the tasks and the plan are copied to the others.

    Args:
        tasks: the tasks, in the order in which they run.
        model: the bare model.
        training_set: what the tasks read.
        average: the averaged weights of the run, if there are any: they take over the buffers that a task changed.
        folder: where tasks write after training, OUTPUT_DIR.

    Raises:
        ConfigError: two tasks have the same name.
    """

    def __init__(
        self,
        tasks: Sequence[EpochTask],
        model: nn.Module,
        training_set: LoaderTrainingSet,
        *,
        average: WeightAverage | None = None,
        folder: str | os.PathLike[str] = "",
    ) -> None:
        names = [task.name for task in tasks]
        if len(set(names)) != len(names):
            raise ConfigError(f"epoch tasks must have different names, got {', '.join(names)}")
        self._tasks, self._model, self._training_set, self._average = tasks, model, training_set, average
        self._folder = Path(folder)
        self._done_epoch = -1  # the last epoch whose tasks have run
        self._plan, self._planned_at = EpochPlan(), 0

    def before_epoch(self) -> None:
        """Run the tasks that are due, unless they ran before the run was resumed."""
        epoch = self.trainer.epoch
        if self._done_epoch >= epoch:  # of a run that is resumed in the middle of this epoch
            return
        for task in self._tasks:
            if task.is_due(epoch):
                self._take(self._run(task))
        self._done_epoch = epoch

    def after_train(self) -> None:
        """Let the tasks write what they know after the last epoch; not if the run was stopped before."""
        if self.trainer.is_stopped or self.trainer.iter < self.trainer.max_iter:
            return
        with self._average.applied() if self._average else contextlib.nullcontext():
            for task in self._tasks:
                with self._working(task) as is_mine:
                    if is_mine:
                        task.after_training(self._training_set, self._folder)

    @contextlib.contextmanager
    def _working(self, task: EpochTask) -> Iterator[bool]:
        """Put the model into the state in which tasks find it; yield whether this process takes part."""
        if task.in_all_processes:  # which must compute the same features: running statistics differ between them
            comm.copy_from_main(self._model.buffers())
        self.trainer.model.eval()
        with whole_weights(self._model, task.reads), torch.no_grad(), self.trainer.autocast():
            yield comm.is_main_process() or task.in_all_processes
        self.trainer.model.train()

    def _run(self, task: EpochTask) -> EpochPlan | None:
        plan, before = None, BufferBackup(self._model)
        before.remember()
        with self._working(task) as is_mine:
            if is_mine:
                plan = task.run(self._training_set)
        comm.copy_from_main(self._model.buffers())
        if comm.is_distributed():
            plan, state = comm.broadcast((plan, task.state_dict()))
            task.load_state_dict(state)
        if self._average is not None:
            self._average.adopt(before.changed())
        return plan

    def _take(self, plan: EpochPlan | None) -> None:
        """Make the training loader follow a plan from the next iteration on."""
        if plan is None or plan.is_empty:
            return
        # New labels end an earlier order; a new order keeps earlier labels.
        self._plan = plan if plan.labels is not None else EpochPlan(self._plan.labels, plan.order)
        self._planned_at = self.trainer.iter
        self._training_set.loader.follow(self._plan, since=self._planned_at)
        self.trainer.restart_loader()

    def state_dict(self) -> dict[str, Any]:
        """Return the last epoch whose tasks have run, the states of the tasks, and the plan."""
        return {
            "done_epoch": self._done_epoch,
            "tasks": {task.name: task.state_dict() for task in self._tasks},
            "labels": _tensor(self._plan.labels),
            "order": _tensor(self._plan.order),
            "planned_at": self._planned_at,
        }

    def resume(self, state: Mapping[str, Any] | None, *, epoch: int, is_in_epoch: bool) -> None:
        """Restore `state_dict`, and make the training loader follow its plan.

        Args:
            state: None of a checkpoint that was written before there were epoch tasks.
            epoch: the first epoch that is run.
            is_in_epoch: whether the run continues in the middle of that epoch.

        Raises:
            ArgumentError: the plan does not fit the training set.
        """
        if state is None:
            self._done_epoch = epoch if is_in_epoch else epoch - 1
            return
        # The run may be resumed before the plan: after steps that were not finite, or if epochs are shorter now.
        self._done_epoch, self._planned_at = state["done_epoch"], min(state["planned_at"], self.trainer.start_iter)
        for task in self._tasks:
            if task.name in state["tasks"]:
                task.load_state_dict(state["tasks"][task.name])
        self._plan = EpochPlan(_list(state["labels"]), _list(state["order"]))
        self._training_set.loader.follow(self._plan, since=self._planned_at)


def build_epoch_tasks(
    tasks: Sequence[EpochTask],
    model: nn.Module,
    loader: TrainingLoader,
    make_loader: MakeLoader,
    average: WeightAverage | None = None,
    folder: str | os.PathLike[str] = "",
) -> EpochTasks | None:
    """The hook that runs the tasks of a model; None if it has none.

    Args:
        tasks: the tasks of the model.
        model: the bare model.
        loader: the training loader.
        make_loader: as of `LoaderTrainingSet`.
        average: the averaged weights of the run, if there are any.
        folder: where tasks write after training, OUTPUT_DIR.

    Raises:
        ConfigError: the tasks cannot run with this loader.
    """
    if not tasks:
        return None
    return EpochTasks(tasks, model, LoaderTrainingSet(loader, make_loader), average=average, folder=folder)


def _tensor(numbers: Sequence[int] | None) -> Tensor | None:
    return None if numbers is None else torch.tensor(numbers, dtype=torch.int64)


def _list(numbers: Tensor | None) -> list[int] | None:
    return None if numbers is None else numbers.tolist()
