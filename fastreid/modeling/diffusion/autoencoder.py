"""The frozen autoencoder of Stable Diffusion: pictures to the moments of their latents, and to latents."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from fastreid.modeling.diffusion.assets import AssetError
from fastreid.modeling.diffusion.model_files import load_model
from fastreid.modeling.diffusion.option_error import OptionError

_CLASS = "AutoencoderKL"
# Limits of the logarithm of the variance, as in Stable Diffusion.
_LOG_VARIANCE = (-30.0, 20.0)


class Autoencoder(nn.Module):
    """Pictures [B, 3, H, W] in -1 … 1 -> moments [B, 2C, h, w] -> latents [B, C, h, w]. It is frozen and in eval mode.

    Args:
        vae: a `diffusers.AutoencoderKL`.
    """

    vae: Any  # mypy sees no members of diffusers' models

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae.requires_grad_(False).eval()

    @classmethod
    def from_pretrained(cls, folder: str, *, key: str = "") -> Autoencoder:
        """Read a folder of diffusers (`config.json` and weights).

        Args:
            folder: folder of an autoencoder, or of a whole pipeline.
            key: config key that names the folder, for error messages.

        Raises:
            AssetError: no such folder, damaged files, or a model of another kind.
        """
        return cls(load_model(diffusers.AutoencoderKL, folder, "vae", "autoencoder", _check_config, key=key))

    def train(self, mode: bool = True) -> Autoencoder:
        """Stay in eval mode."""
        return super().train(False)

    @property
    def reduction(self) -> int:
        """Pixels of a side of a picture for one of the latent."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def channels(self) -> int:
        """Channels C of a latent."""
        return self.vae.config.latent_channels

    @property
    def scale(self) -> float:
        """Factor that gives latents unit variance, 0.18215 in Stable Diffusion 1."""
        return float(self.vae.config.scaling_factor)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return the shape (C, h, w) of the latents of pictures.

        Args:
            height: H, in pixels.
            width: W, in pixels.

        Raises:
            OptionError: it does not divide the size.
        """
        step = self.reduction
        if height % step or width % step:
            raise OptionError(
                f"image_size {height}x{width} does not divide by {step}, by which the autoencoder makes pictures "
                f"smaller: {_nearest(height, step)}x{_nearest(width, step)} does",
                "image_size",
            )
        return self.channels, height // step, width // step

    @torch.no_grad()
    def moments(self, pictures: Tensor) -> Tensor:
        """Return mean and logarithm of the variance of latents, side by side.

        Args:
            pictures: [B, 3, H, W] in -1 … 1.

        Returns:
            [B, 2C, h, w], unscaled.
        """
        return self.vae.encode(pictures).latent_dist.parameters

    def latents(self, moments: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return scale * (mean + deviation * noise), [B, C, h, w] in float32.

        Args:
            moments: [B, 2C, h, w].
            noise: standard normal [B, C, h, w]; None takes the mean.
        """
        mean, log_variance = moments.float().chunk(2, dim=1)
        if noise is None:
            return self.scale * mean
        return self.scale * (mean + (0.5 * log_variance.clamp(*_LOG_VARIANCE)).exp() * noise)


def _check_config(config: dict[str, Any], where: str) -> None:
    kind = config.get("_class_name")
    if kind != _CLASS:
        raise AssetError(f"{where} is of {kind or 'something that names no class'}: an {_CLASS} is needed")


def _nearest(size: int, step: int) -> int:
    return max(step, round(size / step) * step)
