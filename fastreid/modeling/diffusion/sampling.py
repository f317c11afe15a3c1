"""Sampling: all rows and all guidance branches of a batch in one UNet call per step."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fastreid.modeling.diffusion.compiled import CompiledPrediction
from fastreid.modeling.diffusion.guidance import Guidance, NullCondition, condition_of
from fastreid.modeling.diffusion.option_error import OptionError
from fastreid.structures import Condition

if TYPE_CHECKING:
    from fastreid.modeling.diffusion.schedule import Schedule

Predict = Callable[[Tensor, Tensor, Condition], Tensor]
"""(samples [B, …], timesteps, condition) -> prediction [B, …]."""


@dataclass(frozen=True)
class Sampler:
    """Generates samples from noise and a condition.

    Args:
        schedule: the diffusion.
        num_steps: reverse steps.
        guidance: branches and their combination.
        full_scale: guidance scale of the tokens.
        down_scale: guidance scale of view control.
        control_fades: encoder control halves per step, 3 maps, 1, none (as released, B1), instead of acting in each.
        micro_batch: most rows per UNet call; 0 is no limit.
        compiled: calls the denoiser, by compiled code if it can; None calls it directly.

    Raises:
        OptionError: a number that is impossible.
    """

    schedule: Schedule
    num_steps: int
    guidance: Guidance
    full_scale: float = 2.0
    down_scale: float = 2.0
    control_fades: bool = False
    micro_batch: int = 0
    compiled: CompiledPrediction | None = None

    def __post_init__(self) -> None:
        if self.micro_batch < 0:
            raise OptionError(f"micro_batch must be 0 (no limit) or more, got {self.micro_batch}", "micro_batch")
        self.schedule.reverse(self.num_steps, "cpu")  # raises if the number of steps is impossible

    @property
    def noise_steps(self) -> int:
        """Noise tensors that a run consumes: the start, and one per step if steps are stochastic."""
        return 1 + self.num_steps * self.schedule.stochastic

    def with_compiled(self, rows: int) -> Sampler:
        """Return the same sampler with compiled calls of the denoiser.

        Args:
            rows: rows R of a full batch, each with all branches. `micro_batch` is the size of a call, or without a
                limit that of a full batch.
        """
        full = rows * len(self.guidance.branches)
        size = min(self.micro_batch, full) if self.micro_batch else full
        return dataclasses.replace(self, micro_batch=size, compiled=CompiledPrediction(size))

    def sample(self, predict: Predict, condition: Condition, null: NullCondition | None, noise: Tensor) -> Tensor:
        """Generate a sample for each of the R rows of a condition.

        Args:
            predict: the denoiser.
            condition: condition of the R rows.
            null: what the unconditional branches see; None if the guidance has none.
            noise: [noise_steps, R, …].

        Returns:
            Samples [R, …].

        Raises:
            OptionError: the guidance needs a null condition.
        """
        reverse = self.schedule.reverse(self.num_steps, noise.device)
        branches = [condition_of(branch, condition, null) for branch in self.guidance.branches]
        joined = Condition.cat(branches)
        sample = noise[0] * reverse.start_scale
        for index, time in enumerate(reverse.times):
            scaled = reverse.scale(sample, time)
            rows = scaled.repeat(len(branches), *[1] * (scaled.ndim - 1))
            predicted = self._predict(predict, rows, reverse.timesteps[index], self._fade(joined, index))
            predictions = predicted.unflatten(0, (len(branches), -1)).unbind()
            guided = self.guidance.combine(predictions, (self.full_scale, self.down_scale))
            sample = reverse.step(guided, time, sample, noise[min(index + 1, noise.shape[0] - 1)])
        return sample

    def _fade(self, condition: Condition, step: int) -> Condition:
        control = condition.control
        if control is None or not self.control_fades:
            return condition
        kept = len(control.down) >> step
        faded = tuple(m if level < kept else torch.zeros_like(m) for level, m in enumerate(control.down))
        return Condition(condition.tokens, dataclasses.replace(control, down=faded))

    def _predict(self, predict: Predict, rows: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        if self.compiled is not None:
            predict = functools.partial(self.compiled, predict)
        if not self.micro_batch:
            return predict(rows, timestep, condition.rows(0, None)).float()
        size = self.micro_batch
        parts = [
            predict(rows[start : start + size], timestep, condition.rows(start, start + size))
            for start in range(0, len(rows), size)
        ]
        return torch.cat(parts).float()


class Reverse:
    """One run of a solver from noise to sample.

    `timesteps` are the times to predict at, largest first (a multi-step solver may repeat one), as a tensor for the
    network; `times` are the same as numbers for the solver, whose steps branch on them. `start_scale` is the standard
    deviation of the starting noise.

    Args:
        solver: a scheduler of diffusers whose timesteps are set.
        eta: noise of its steps, from 0 (none) to 1 (that of DDPM).
    """

    def __init__(self, solver: Any, eta: float) -> None:
        self._solver, self._eta = solver, eta
        self.timesteps: Tensor = solver.timesteps
        self.times: list[float] = solver.timesteps.tolist()
        self.start_scale = float(solver.init_noise_sigma)

    @classmethod
    def prepared(cls, solver: Any, num_steps: int, device: torch.device | str, eta: float) -> Reverse:
        """Set the timesteps of a solver, and return the run before its first step.

        Raises:
            OptionError: the first step is at a time that it cannot begin at.
        """
        config = solver.config
        if num_steps == config.num_train_timesteps and config.timestep_spacing == "leading":
            solver.register_to_config(steps_offset=0)  # T steps take every time; with an offset they would begin at T
        with torch.inference_mode(False):  # a later use may need gradients
            solver.set_timesteps(num_steps, device=device)
        if hasattr(solver, "set_begin_index"):  # else the first step searches its time in the table
            solver.set_begin_index(0)
        if type(solver).__name__ == "EulerDiscreteScheduler":  # a graph cannot branch on values of tensors
            solver.sigmas = solver.sigmas.tolist()
        for name, value in vars(solver).items():
            if isinstance(value, np.ndarray):  # a table of times, which a graph cannot read
                setattr(solver, name, value.tolist())
        prepared = cls(solver, eta)
        prepared._check_first_time(num_steps)
        return prepared

    def _check_first_time(self, num_steps: int) -> None:
        """Check that a run begins at a time of the diffusion, from which the clean sample can be computed."""
        first, config = max(self.times), self._solver.config
        if first >= config.num_train_timesteps:  # by the steps_offset of the assets
            raise OptionError(
                f"{num_steps} steps begin at time {first:g}, and the last one of the diffusion is "
                f"{config.num_train_timesteps - 1}: take fewer steps, or timestep_spacing trailing",
                "num_steps",
                "timestep_spacing",
            )
        if config.prediction_type == "epsilon" and self._solver.alphas_cumprod[int(first)] == 0:
            raise OptionError(
                f"the steps begin at time {first:g}, at which the assets keep no signal (rescale_betas_zero_snr): a "
                "clean sample cannot be computed from prediction_type epsilon there; take v_prediction or sample",
                "prediction_type",
            )

    def copy(self) -> Reverse:
        """Return the same run with a state of its own. Tensors are shared, as steps do not change them."""
        copied = copy.copy(self)
        copied._solver = copy.copy(self._solver)
        for name, value in vars(self._solver).items():
            if isinstance(value, list):
                setattr(copied._solver, name, list(value))
        return copied

    def scale(self, sample: Tensor, timestep: Tensor | float) -> Tensor:
        """Return the sample as the network expects it."""
        return self._solver.scale_model_input(sample, timestep)

    def step(self, prediction: Tensor, timestep: Tensor | float, sample: Tensor, noise: Tensor) -> Tensor:
        """Return the sample of the step before; `noise` [B, …] is used by stochastic solvers only."""
        made = self._solver.step(prediction, timestep, sample)
        return self._with_noise(made, timestep, noise) if self._eta else made.prev_sample

    def _with_noise(self, made: Any, timestep: Tensor | float, noise: Tensor) -> Tensor:
        """Return the sample of a DDIM step with noise (Song et al. 2021, eq. 12 and 16), from the step without.

        Diffusers takes the root of 1 - abar' - sigma^2. Where abar is nearly 0, rounding can make it negative.
        """
        solver, kept = self._solver, self._solver.alphas_cumprod
        before = int(timestep) - solver.config.num_train_timesteps // solver.num_inference_steps
        now, then = kept[int(timestep)], kept[before] if before >= 0 else solver.final_alpha_cumprod
        share = self._eta**2 * (1 - now / then) / (1 - now)  # of the variance 1 - abar' that is new noise
        clean = then.sqrt() * made.pred_original_sample
        rest = (1 - share).clamp(min=0).sqrt() * (made.prev_sample - clean)
        return clean + rest + (share * (1 - then)).sqrt() * noise
