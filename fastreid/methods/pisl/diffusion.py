"""The spatial diffusion model: diffuses the matrices of patches, conditioned on the global feature (section 2.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastreid.methods.pisl.denoiser import ThetaDenoiser
from fastreid.methods.pisl.localization import LocalizationNetwork
from fastreid.methods.pisl.released_sampler import ReleasedSampler
from fastreid.modeling.diffusion import Schedule
from fastreid.modeling.diffusion.noise import NoiseSource
from fastreid.modeling.diffusion.sampling import Sampler
from fastreid.modeling.diffusion.steps import clean_of, noise_of, step_to
from fastreid.structures import Condition
from fastreid.utils.devices import to_device
from fastreid.utils.draws import BatchDraws


def cosine_betas(num_timesteps: int, s: float) -> list[float]:
    """Return the betas of the cosine schedule (Nichol & Dhariwal 2021, eq. 17), at most 0.999.

    Args:
        num_timesteps: T.
        s: offset that keeps the first betas from being too small.
    """

    def kept(step: int) -> float:
        return math.cos((step / num_timesteps + s) / (1 + s) * math.pi / 2) ** 2

    return [min(1 - kept(step + 1) / kept(step), 0.999) for step in range(num_timesteps)]


@dataclass(frozen=True)
class Signal:
    """How matrices become what is diffused.

    Args:
        scale: standard size of the signal against the noise.
        is_box: scale * (2 theta - 1) as for boxes in [0, 1] (DiffusionDet), instead of scale * theta.
    """

    scale: float = 1.0
    is_box: bool = False

    def encode(self, theta: Tensor) -> Tensor:
        """Return the signal of matrices."""
        return self.scale * (2 * theta - 1 if self.is_box else theta)

    def decode(self, signal: Tensor) -> Tensor:
        """Return the matrices of a signal; those of boxes are clamped to [0, 1]."""
        if self.is_box:
            return (signal.clamp(-self.scale, self.scale) / self.scale + 1) / 2
        return signal / self.scale


@dataclass(frozen=True)
class DiffusedPatches:
    """The matrices of a training batch and the predictions for them; tensors are [B, P, 2, 3].

    Attributes:
        clean: theta_0 of the localisation network.
        noisy: theta_t, decoded.
        denoised: theta_0 as it follows from the prediction, decoded.
        noise: the noise eps.
        predicted_noise: the noise that follows from the prediction.
        step: the signal at t-1 by one deterministic DDIM step from the prediction.
        step_target: the signal at t-1 with the true theta_0 and noise.
    """

    clean: Tensor
    noisy: Tensor
    denoised: Tensor
    noise: Tensor
    predicted_noise: Tensor
    step: Tensor
    step_target: Tensor


class SpatialDiffusion(nn.Module):
    """Localisation network, denoiser and diffusion of the matrices of P patches.

    Args:
        localizer: maps -> theta_0.
        denoiser: predicts theta_0 or the noise.
        schedule: of the diffusion.
        signal: what is diffused.
        sampler: generates matrices from noise.
        t_per_sample: whether each image of a batch has a time step of its own.
        noise: of sampling.
        sample_normalized: whether the sampler's condition has unit length.
    """

    def __init__(
        self,
        *,
        localizer: LocalizationNetwork,
        denoiser: ThetaDenoiser,
        schedule: Schedule,
        signal: Signal,
        sampler: Sampler | ReleasedSampler,
        t_per_sample: bool,
        noise: NoiseSource,
        sample_normalized: bool,
    ) -> None:
        super().__init__()
        self.localizer, self.denoiser, self.schedule, self.signal = localizer, denoiser, schedule, signal
        self.sampler, self.t_per_sample, self.noise = sampler, t_per_sample, noise
        self.sample_normalized = sample_normalized

    def forward(self, maps: Tensor, features: Tensor, draws: BatchDraws) -> DiffusedPatches:
        """Diffuse the patches of a training batch, and predict.

        Args:
            maps: [B, C, h, w].
            features: global features [B, D], the condition.
            draws: random numbers of the batch.
        """
        clean = self.localizer(maps).float()
        shape = clean.shape[1:]
        signal = self.signal.encode(clean).flatten(1)
        chance = draws.uniform() if self.t_per_sample else draws.common_uniform().expand(len(maps))
        timesteps, noise = self.schedule.timesteps_of(chance), draws.normal(*signal.shape[1:])
        noisy = self.schedule.add_noise(signal, noise, timesteps)
        prediction = self.denoiser(noisy, timesteps, Condition(features[:, None])).float()
        denoised = clean_of(self.schedule, prediction, noisy, timesteps)
        predicted_noise = noise_of(self.schedule, prediction, noisy, timesteps)
        before = (timesteps - self._stride).clamp(min=-1)
        parts = (
            self.signal.decode(noisy),
            self.signal.decode(denoised),
            noise,
            predicted_noise,
            step_to(self.schedule, denoised, predicted_noise, before),
            step_to(self.schedule, signal, noise, before),
        )
        return DiffusedPatches(clean, *(part.unflatten(1, shape) for part in parts))

    @property
    def _stride(self) -> int:
        """Time between two steps of the sampler."""
        return max(1, self.schedule.num_timesteps // self.sampler.num_steps)

    @torch.no_grad()
    def sample(self, features: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Sample the matrices [B, P, 2, 3] of images.

        Args:
            features: global features [B, D].
            batch: the images, for noise that depends on them.
        """
        condition = nn.functional.normalize(features) if self.sample_normalized else features
        noise = to_device(self.noise.draw(batch, 1, self.sampler.noise_steps)[:, :, 0], features.device)
        signal = self.sampler.sample(self.denoiser, Condition(condition[:, None].float()), None, noise)
        return self.decode_sample(signal).unflatten(1, (-1, 2, 3))

    def decode_sample(self, signal: Tensor) -> Tensor:
        """Return the matrices of a sampled signal; the release takes the signal itself."""
        return signal if isinstance(self.sampler, ReleasedSampler) else self.signal.decode(signal)
