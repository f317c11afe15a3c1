"""Noise schedules on diffusers: adding noise, the training target, and reverse steps, for samples of any shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import diffusers  # a name of it is imported when it is used: some take seconds
import torch
from torch import Tensor

from fastreid.modeling.diffusion.option_error import OptionError
from fastreid.modeling.diffusion.sampling import Reverse
from fastreid.modeling.diffusion.scheduler_assets import (
    AUTO,
    COSINE,
    PREDICTION_TYPES,
    check_steps,
    chosen_prediction_type,
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
    # DPM-Solver++(2M) (Lu et al. 2022): few steps, one prediction each.
    "dpm++": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "final_sigmas_type": "zero", "use_karras_sigmas": False},
    ),
}
# Solvers that can use a prediction of the clean sample.
_SAMPLE_SOLVERS = ("ddpm", "ddim", "dpm++")

# Keys of the assets that decide how noise is added, besides T.
_BETAS = ("beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")


class Schedule:
    """Forward process and reverse solver with one set of betas.

    Args:
        config: a Diffusers `scheduler_config.json` as a dict.
        solver: "ddpm", "ddim", "pndm", "euler" or "dpm++".
        num_timesteps: T; the betas are spread over it.
        prediction_type: what the network predicts.
        timestep_spacing: where the reverse steps lie in 0 … T-1.
        cubic: draw training times as (1 - u^3) T instead of uniformly.
        eta: noise of the steps of "ddim", from 0 (none) to 1 (that of "ddpm"); the other solvers ignore it.

    Raises:
        OptionError: an unknown name, or a solver that cannot use the prediction type.
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
        eta: float = 0.0,
    ) -> None:
        for kind, word, legal in (
            ("solver", solver, _SOLVERS),
            ("prediction_type", prediction_type, PREDICTION_TYPES),
            ("timestep_spacing", timestep_spacing, TIMESTEP_SPACINGS),
        ):
            if word not in legal:
                raise OptionError(explain_choice(kind, word, legal), kind)
        if prediction_type == "sample" and solver not in _SAMPLE_SOLVERS:
            raise OptionError(
                f'prediction_type "sample" works with {", ".join(_SAMPLE_SOLVERS)}, not with {solver}',
                "prediction_type",
            )
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
        self._eta = {"ddpm": 1.0, "ddim": eta}.get(solver, 0.0)
        self.stochastic, self.cubic = self._eta > 0, cubic
        self._prepared: dict[tuple[int, torch.device], Reverse] = {}

    @classmethod
    def from_pretrained(
        cls,
        folder: str,
        *,
        solver: str,
        num_timesteps: int,
        prediction_type: str = AUTO,
        timestep_spacing: str = "trailing",
        cubic: bool = False,
        key: str = "",
        key_of: Mapping[str, str] = MappingProxyType({}),
    ) -> Schedule:
        """Read the betas from a folder of diffusers (`scheduler_config.json`).

        Args:
            folder: folder of a scheduler, or of a whole pipeline; "" for the cosine schedule without a folder.
            solver: as in the constructor.
            num_timesteps: as in the constructor.
            prediction_type: as in the constructor, or "auto" for what the assets say.
            timestep_spacing: as in the constructor.
            cubic: as in the constructor.
            key: config key that names the folder, for error messages.
            key_of: argument -> config key, for log messages.

        Raises:
            AssetError: no `scheduler_config.json`, a damaged one, or one that has no schedule of betas.
            OptionError: an argument is impossible or contradicts the assets.
        """
        config = read_scheduler(folder, key=key) if folder else dict(COSINE)
        check_steps(config, num_timesteps, solver, key_of)
        return cls(
            config,
            solver=solver,
            num_timesteps=num_timesteps,
            prediction_type=chosen_prediction_type(config, prediction_type, key_of),
            timestep_spacing=timestep_spacing,
            cubic=cubic,
        )

    def timesteps_of(self, chance: Tensor) -> Tensor:
        """Return training times [B], int64 in 0 … T-1, for numbers [B] drawn uniformly from [0, 1)."""
        share = 1 - chance**3 if self.cubic else chance
        return (share * self.num_timesteps).long().clamp(max=self.num_timesteps - 1)

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps, at timesteps [B]."""
        return self._forward.add_noise(clean, noise, timesteps)

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what the network should predict: eps, z_0, or v = sqrt(abar_t) eps - sqrt(1 - abar_t) z_0."""
        if self.prediction_type == "v_prediction":
            return self._forward.get_velocity(clean, noise, timesteps)
        return noise if self.prediction_type == "epsilon" else clean

    def kept_signal(self, timesteps: Tensor, like: Tensor) -> Tensor:
        """Return abar of timesteps [B], on the device of `like` and with as many dimensions."""
        return self._forward.alphas_cumprod.to(like.device)[timesteps].view(-1, *[1] * (like.ndim - 1))

    def make_solver(self) -> Any:
        """Return a new scheduler of diffusers with these betas, as its pipelines take."""
        return self._make_solver()

    def reverse(self, num_steps: int, device: torch.device | str) -> Reverse:
        """Return a new solver.

        Args:
            num_steps: reverse steps.
            device: where the samples are.

        Raises:
            OptionError: more steps than the diffusion has, or the first one is at a time that it cannot begin at.
        """
        if not 1 <= num_steps <= self.num_timesteps:
            raise OptionError(
                f"num_steps must be 1 … num_timesteps={self.num_timesteps}, got {num_steps}",
                "num_steps",
                "num_timesteps",
            )
        key = num_steps, torch.device(device)
        if key not in self._prepared:  # its tables are made once: they cannot be while a graph is traced
            self._prepared[key] = Reverse.prepared(self.make_solver(), num_steps, device, self._eta)
        return self._prepared[key].copy()
