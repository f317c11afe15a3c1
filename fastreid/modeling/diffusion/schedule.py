"""Noise schedules on diffusers: add noise, name the training target, step back. It does not know what it noises."""

from collections.abc import Callable
from typing import Any

import diffusers  # a name of it is imported when it is used: some take seconds
import torch
from torch import Tensor

from fastreid.config import CfgNode, ConfigError
from fastreid.modeling.diffusion.scheduler_assets import (
    PREDICTION_TYPES,
    check_steps,
    prediction_type,
    read_scheduler,
)
from fastreid.utils.suggest import explain_choice

TIMESTEP_SPACINGS = ("leading", "trailing")
# DDPM is DDIM with eta = 1 (Song et al. 2021, section 4.1). Written so, its noise is an argument of each step
# rather than a draw from a generator, and a feature cannot depend on what else is in the batch.
_SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("DDIMScheduler", {"set_alpha_to_one": True}),
    "ddim": ("DDIMScheduler", {}),
    "pndm": ("PNDMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
}


# Keys of the assets that decide how noise is added, beside T.
_BETAS = ("beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")


class Schedule:
    """Forward process and reverse solver with one set of betas.

    Args:
        config: a Diffusers `scheduler_config.json` as a dict.
        solver: "ddpm", "ddim", "pndm" or "euler".
        num_timesteps: T; the betas are spread over it.
        prediction_type: what the network predicts.
        timestep_spacing: where the reverse steps lie in 0 … T-1.
        cubic: draw training times as (1 - u^3) T instead of uniformly.

    Raises:
        ConfigError: an unknown name, or a solver that cannot use the prediction type.
    """

    def __init__(
        self,
        config: dict[str, Any],
        *,
        solver: str,
        num_timesteps: int,
        prediction_type: str,
        timestep_spacing: str,
        cubic: bool,
    ) -> None:
        for kind, word, legal in (
            ("MODEL.SDMODEL.SCHEDULER_CONFIG.NAME", solver, _SOLVERS),
            ("MODEL.SDMODEL.PREDICTION_TYPE", prediction_type, PREDICTION_TYPES),
            (
                "MODEL.SDMODEL.SCHEDULER_CONFIG.TIMESTEP_SPACING",
                timestep_spacing,
                TIMESTEP_SPACINGS,
            ),
        ):
            if word not in legal:
                raise ConfigError(explain_choice(kind, word, legal))
        if prediction_type == "sample" and solver not in ("ddpm", "ddim"):
            raise ConfigError(f'PREDICTION_TYPE "sample" works with ddpm and ddim, not with {solver}')
        shared = {
            "num_train_timesteps": num_timesteps,
            "prediction_type": prediction_type,
            "timestep_spacing": timestep_spacing,
            "clip_sample": False,  # features are not pixels in -1 … 1
            "thresholding": False,
        }
        name, own = _SOLVERS[solver]
        solver_class = getattr(diffusers, name)
        self._forward = diffusers.DDPMScheduler.from_config(config, **shared)
        self._make_solver: Callable[[], Any] = lambda: solver_class.from_config(config, **shared, **own)
        self.num_timesteps, self.prediction_type = num_timesteps, prediction_type
        self.betas = {name: config[name] for name in _BETAS if name in config}
        self.stochastic, self.cubic = solver == "ddpm", cubic

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "Schedule":
        """From `MODEL.SDMODEL`; betas, and the prediction type if no key says otherwise, from the assets.

        Raises:
            AssetError: no `scheduler_config.json`, a damaged one, or one that has no schedule of betas.
            ConfigError: a key that the assets contradict.
        """
        keys = cfg.MODEL.SDMODEL
        config = read_scheduler(keys.SCHEDULER_CONFIG.PRETRAINED_PATH)
        check_steps(config, keys.TRAIN_STEP, keys.SCHEDULER_CONFIG.NAME)
        return cls(
            config,
            solver=keys.SCHEDULER_CONFIG.NAME,
            num_timesteps=keys.TRAIN_STEP,
            prediction_type=prediction_type(config, keys),
            timestep_spacing=keys.SCHEDULER_CONFIG.TIMESTEP_SPACING,
            cubic=keys.SCHEDULER_CONFIG.CUBIC_SAMPLING,
        )

    def timesteps_of(self, chance: Tensor) -> Tensor:
        """Training times [B], int64 in 0 … T-1, of even numbers [B] in [0, 1)."""
        share = 1 - chance**3 if self.cubic else chance
        return (share * self.num_timesteps).long().clamp(max=self.num_timesteps - 1)

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps, at timesteps [B]."""
        return self._forward.add_noise(clean, noise, timesteps)

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the network should predict: eps, z_0, or v = sqrt(abar_t) eps - sqrt(1 - abar_t) z_0."""
        if self.prediction_type == "v_prediction":
            return self._forward.get_velocity(clean, noise, timesteps)
        return noise if self.prediction_type == "epsilon" else clean

    def reverse(self, num_steps: int, device: torch.device | str) -> "Reverse":
        """A fresh solver of `num_steps` steps.

        Raises:
            ConfigError: more steps than the diffusion has.
        """
        if not 1 <= num_steps <= self.num_timesteps:
            raise ConfigError(
                f"TEST.SDMODEL.NUM_INFERENCE_STEPS must be 1 … TRAIN_STEP={self.num_timesteps}, got {num_steps}"
            )
        solver = self._make_solver()
        solver.set_timesteps(num_steps, device=device)
        return Reverse(solver, self.stochastic)


class Reverse:
    """One run of a solver from noise to sample.

    Attributes:
        timesteps: times to predict at, largest first (a multi-step solver may repeat one).
        start_scale: standard deviation of the starting noise.
    """

    def __init__(self, solver: Any, stochastic: bool) -> None:
        self._solver, self._stochastic = solver, stochastic
        self.timesteps: Tensor = solver.timesteps
        self.start_scale = float(solver.init_noise_sigma)

    def scale(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """The sample as the network wants to see it."""
        return self._solver.scale_model_input(sample, timestep)

    def step(self, prediction: Tensor, timestep: Tensor, sample: Tensor, noise: Tensor) -> Tensor:
        """One step back; `noise` [B, …] is used by the stochastic solver (ddpm) only."""
        options = {"eta": 1.0, "variance_noise": noise} if self._stochastic else {}
        return self._solver.step(prediction, timestep, sample, **options).prev_sample
