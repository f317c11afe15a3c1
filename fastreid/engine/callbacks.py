"""Optional hooks: user-defined functions, and a profile of some iterations."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from fastreid.engine.trainer_base import HookBase, TrainerBase

logger = logging.getLogger(__name__)

Callback = Callable[[TrainerBase], object]


class CallbackHook(HookBase):
    """Calls functions with the trainer, each at the point of its name: ``CallbackHook(after_epoch=plot)``.

    Args:
        callbacks: name of a method of `HookBase` -> the function that is called there.

    Raises:
        TypeError: a hook has no such method.
    """

    def __init__(self, **callbacks: Callback) -> None:
        for point, callback in callbacks.items():
            if point not in POINTS:
                raise TypeError(f"a run has no point {point!r}; there are {', '.join(POINTS)}")
            setattr(self, point, self._bound(callback))

    def _bound(self, callback: Callback) -> Callable[[], object]:
        return lambda: callback(self.trainer)


POINTS = tuple(name for name, value in vars(HookBase).items() if callable(value))


class AutogradProfiler(HookBase):
    """Profiles the iterations for which ``enable_predicate(trainer)`` is true.

    Each of them writes profiler-trace-iterN.json for chrome://tracing or Perfetto; N counts from 0.

    Args:
        enable_predicate: whether to profile the current iteration.
        output_dir: folder of the files.
        use_cuda: whether to profile kernels on the GPU too, if there is one.
    """

    def __init__(
        self, enable_predicate: Callable[[TrainerBase], bool], output_dir: str | Path, *, use_cuda: bool = True
    ) -> None:
        self._is_wanted, self._folder = enable_predicate, Path(output_dir)
        self._activities = [ProfilerActivity.CPU]
        if use_cuda and torch.cuda.is_available():
            self._activities.append(ProfilerActivity.CUDA)
        self._profile: profile | None = None

    def before_step(self) -> None:
        """Start the profiler if the iteration is wanted."""
        if self._is_wanted(self.trainer):
            self._profile = profile(activities=self._activities)
            self._profile.__enter__()

    def after_step(self) -> None:
        """Write the profile of the iteration."""
        if self._profile is None:
            return
        self._profile.__exit__(None, None, None)
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"profiler-trace-iter{self.trainer.iter}.json"
        self._profile.export_chrome_trace(str(path))
        self._profile = None
        logger.info("profile of iteration %d in %s", self.trainer.iter, path)
