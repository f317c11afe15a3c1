"""Sampling: all views and all guidance branches of a batch in one UNet call per step."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastreid.config import CfgNode, ConfigError
from fastreid.modeling.diffusion.guidance import Guidance, NullRows, get_guidance
from fastreid.modeling.diffusion.schedule import Schedule
from fastreid.structures import Condition, ControlMaps
from fastreid.utils.suggest import explain_choice

Predict = Callable[[Tensor, Tensor, Condition], Tensor]


@dataclass(frozen=True)
class Sampler:
    """From noise and a condition to samples.

    Attributes:
        schedule: the diffusion.
        num_steps: reverse steps.
        guidance: branches and their combination.
        full_scale, down_scale: guidance scales.
        control_fades: encoder control halves per step, 3 maps, 1, none (as released, B1), instead of acting in each.
        micro_batch: most rows per UNet call; 0 is no limit.
    """

    schedule: Schedule
    num_steps: int
    guidance: Guidance
    full_scale: float = 2.0
    down_scale: float = 2.0
    control_fades: bool = False
    micro_batch: int = 0

    @classmethod
    def from_config(cls, cfg: CfgNode, schedule: Schedule) -> "Sampler":
        keys = cfg.TEST.SDMODEL
        if keys.CONTROL_STEPS not in ("every", "fading"):
            raise ConfigError(explain_choice("TEST.SDMODEL.CONTROL_STEPS", keys.CONTROL_STEPS, ("every", "fading")))
        if keys.MICRO_BATCH < 0:
            raise ConfigError(f"TEST.SDMODEL.MICRO_BATCH must be 0 (no limit) or more, got {keys.MICRO_BATCH}")
        schedule.reverse(keys.NUM_INFERENCE_STEPS, "cpu")  # an impossible number of steps fails here
        return cls(
            schedule,
            num_steps=keys.NUM_INFERENCE_STEPS,
            guidance=get_guidance(keys.INVERSE_TYPE),
            full_scale=keys.FULL_GUIDANCE_SCALE,
            down_scale=keys.DOWN_BLOCK_GUIDANCE_SCALE,
            control_fades=keys.CONTROL_STEPS == "fading",
            micro_batch=keys.MICRO_BATCH,
        )

    @property
    def noise_steps(self) -> int:
        """Noise tensors a run consumes: the start, and one per step where steps are stochastic."""
        return 1 + self.num_steps * self.schedule.stochastic

    def sample(self, predict: Predict, condition: Condition, null: NullRows, noise: Tensor) -> Tensor:
        """Samples [R, …] for the R rows of `condition`, from noise [noise_steps, R, …].

        Args:
            predict: (samples, timesteps, condition) -> prediction, the denoiser.
            null: what the unconditional branches see.
        """
        reverse = self.schedule.reverse(self.num_steps, noise.device)
        branches = [null.branch(branch, condition) for branch in self.guidance.branches]
        joined = Condition.cat(branches)
        sample = noise[0] * reverse.start_scale
        for index, timestep in enumerate(reverse.timesteps):
            scaled = reverse.scale(sample, timestep)
            rows = scaled.repeat(len(branches), *[1] * (scaled.ndim - 1))
            predictions = self._predict(predict, rows, timestep, self._fade(joined, index)).chunk(len(branches))
            guided = self.guidance.combine(predictions, (self.full_scale, self.down_scale))
            sample = reverse.step(guided, timestep, sample, noise[min(index + 1, len(noise) - 1)])
        return sample

    def _fade(self, condition: Condition, step: int) -> Condition:
        if not self.control_fades:
            return condition
        down = condition.control.down
        kept = len(down) >> step
        faded = tuple(m if level < kept else torch.zeros_like(m) for level, m in enumerate(down))
        return Condition(condition.tokens, ControlMaps(faded, condition.control.up, condition.control.mid))

    def _predict(self, predict: Predict, rows: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        size = self.micro_batch or len(rows)
        parts = [
            predict(rows[start : start + size], timestep, condition.rows(start, start + size))
            for start in range(0, len(rows), size)
        ]
        return torch.cat(parts).float()
