"""The diffusion branch: its loss flows through the condition back to the re-identification model (section 4.2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreid.config import ConfigError
from fastreid.data.transforms import PersonTransform
from fastreid.methods.dcac.condition import IdentityCondition
from fastreid.modeling.array_cache import ArrayCache, FillCache
from fastreid.modeling.diffusion import Autoencoder, Schedule, UNetDenoiser
from fastreid.modeling.epoch_task import EpochTask, TrainingSet
from fastreid.modeling.prototypes import PrototypeMemory
from fastreid.structures import Condition
from fastreid.utils.devices import to_device
from fastreid.utils.draws import BatchDraws

VIEW = "diffusion_images"
"""Key in the batch of the images that are diffused, [B, 3, S, S] in 0..255."""


class DiffusionFeedback(nn.Module):
    """Returns the loss of denoising an image's latent under the condition of its person.

    Args:
        condition: makes the condition.
        autoencoder: images -> latents; frozen.
        denoiser: Stable Diffusion's UNet.
        schedule: of the noise.
        samples_posterior: whether latents are drawn from the posterior of the autoencoder, or are its mean.
        transform: makes the image that is diffused.
        cache: where the moments of the latents of training images are stored; None encodes in each step.
    """

    def __init__(
        self,
        *,
        condition: IdentityCondition,
        autoencoder: Autoencoder,
        denoiser: UNetDenoiser,
        schedule: Schedule,
        samples_posterior: bool,
        transform: PersonTransform,
        cache: ArrayCache | None,
    ) -> None:
        super().__init__()
        self.condition, self.autoencoder, self.denoiser = condition, autoencoder, denoiser
        self.schedule, self.samples_posterior = schedule, samples_posterior
        self.transform, self.cache = transform, cache

    def forward(
        self,
        logits: Tensor,
        features: Tensor,
        targets: Tensor,
        memory: PrototypeMemory | None,
        batch: Mapping[str, Any],
    ) -> Tensor:
        """Return the mean squared error of the denoiser, a scalar.

        Args:
            logits: of the classifier, [B, C].
            features: retrieval features of unit length [B, D].
            targets: classes [B].
            memory: the prototypes, or None.
            batch: the batch, with the images to diffuse, or `indices` if their latents are stored.
        """
        with torch.autocast(features.device.type, enabled=False):
            tokens = self.condition(logits.float(), features.float(), targets, memory)
        draws = BatchDraws.of(batch, features.device)
        moments = self.moments(batch) if self.cache is None else self.cache.read(batch["indices"])
        moments = to_device(moments, features.device).float()
        noise = draws.normal(moments.shape[1] // 2, *moments.shape[2:])
        latents = self.autoencoder.latents(moments, draws.normal(*noise.shape[1:]) if self.samples_posterior else None)
        timesteps = self.schedule.timesteps_of(draws.uniform())
        noisy = self.schedule.add_noise(latents, noise, timesteps)
        prediction = self.denoiser(noisy, timesteps, Condition(tokens))
        return F.mse_loss(prediction.float(), self.schedule.target(latents, noise, timesteps))

    def moments(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the moments of the latents [B, 2C, h, w] of the images that are diffused.

        Raises:
            ConfigError: the batch does not have them.
        """
        if VIEW not in batch:
            raise ConfigError(
                f"the batch has no {VIEW!r}: a user-defined training loader must make them with the transforms of "
                "DCAC.image_transforms(cfg, is_train=True)"
            )
        device = next(self.autoencoder.parameters()).device
        return self.autoencoder.moments(batch[VIEW].to(device) / 127.5 - 1)

    def epoch_tasks(self) -> Sequence[EpochTask]:
        """Return the task that fills the cache of latents, if there is one."""
        return [] if self.cache is None else [FillCache(self.cache, self.autoencoder, self.moments, self._batches)]

    def _batches(self, training_set: TrainingSet) -> Iterable[Mapping[str, Any]]:
        return training_set.batches(training_set.images, {VIEW: self.transform})
