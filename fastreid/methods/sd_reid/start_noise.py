"""Starting noise that is learnt from the image."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class StartNoise(nn.Module):
    """Noise from N(mu, sigma^2) in place of N(0, I), with mu and log sigma^2 linear in the image's own latent.

    DiffReID (Wang et al.) learns its noise in this way. Both layers start at zero, and so at N(0, I). Sampling starts
    from mu, without a random number.

    Args:
        dim: D.
        kl_weight: weight of the divergence from N(0, I).
    """

    def __init__(self, dim: int, kl_weight: float) -> None:
        super().__init__()
        self.kl_weight = kl_weight
        self.mean, self.log_variance = nn.Linear(dim, dim), nn.Linear(dim, dim)
        for layer in (self.mean, self.log_variance):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, latents: Tensor) -> Tensor:
        """Return mu [B, D] in float32, of latents [B, D] of images."""
        with torch.autocast(latents.device.type, enabled=False):
            return self.mean(latents.float())

    def draw(self, latents: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
        """Return noise [B, D] for training, and the weighted divergence, a mean over images and numbers.

        Args:
            latents: [B, D].
            normal: [B, D], standard normal numbers.
        """
        with torch.autocast(latents.device.type, enabled=False):
            mean, log_variance = self(latents), self.log_variance(latents.float())
            divergence = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).mean()
            return mean + (0.5 * log_variance).exp() * normal, self.kl_weight * divergence
