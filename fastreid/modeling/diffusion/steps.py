"""What follows from a prediction: the clean sample, the noise, and the sample of another time."""

from __future__ import annotations

import torch
from torch import Tensor

from fastreid.modeling.diffusion.schedule import Schedule


def clean_of(schedule: Schedule, prediction: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
    """Return the clean samples z_0 that follow from predictions.

    Args:
        schedule: the diffusion.
        prediction: what the network predicts, [B, …].
        noisy: z_t, of the same shape.
        timesteps: t, [B].
    """
    if schedule.prediction_type == "sample":
        return prediction
    kept = schedule.kept_signal(timesteps, noisy)
    if schedule.prediction_type == "v_prediction":
        return kept.sqrt() * noisy - (1 - kept).sqrt() * prediction
    return (noisy - (1 - kept).sqrt() * prediction) / kept.sqrt()


def noise_of(schedule: Schedule, prediction: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
    """Return the noise that follows from predictions; arguments as `clean_of`."""
    if schedule.prediction_type == "epsilon":
        return prediction
    kept = schedule.kept_signal(timesteps, noisy)
    if schedule.prediction_type == "v_prediction":
        return kept.sqrt() * prediction + (1 - kept).sqrt() * noisy
    return (noisy - kept.sqrt() * prediction) / (1 - kept).sqrt()


def step_to(schedule: Schedule, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return the sample at a time, made of a clean sample and noise (DDIM without noise, Song et al. 2021, eq. 12).

    Args:
        schedule: the diffusion.
        clean: z_0, true or predicted, [B, …].
        noise: eps, true or predicted, of the same shape.
        timesteps: t from -1 to T - 1, [B]; at -1 the sample is the clean one.
    """
    kept = schedule.kept_signal(timesteps.clamp(min=0), clean)
    kept = torch.where(timesteps.view(kept.shape) < 0, 1.0, kept)
    return kept.sqrt() * clean + (1 - kept).sqrt() * noise
