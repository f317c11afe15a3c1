"""A module that takes images in 0..255 and normalizes their pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def as_batch(images: Any) -> Mapping[str, Any]:
    """Return a batch of images [B, 3, H, W]; a batch stays as it is."""
    return {"images": images} if isinstance(images, Tensor) else images


class ImageModule(nn.Module):
    """Holds the mean and standard deviation of pixels, which are not in checkpoints, and normalizes images.

    Args:
        pixel_mean: mean of each channel of images in 0..255.
        pixel_std: standard deviation of each channel.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, pixel_mean: Sequence[float], pixel_std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(1, -1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """The device of the module."""
        return self.pixel_mean.device

    def preprocess_image(self, batched_inputs: Mapping[str, Any] | Tensor) -> Tensor:
        """Normalize images on the device of the module; the given tensor is left unchanged.

        Args:
            batched_inputs: images [B, 3, H, W] in 0..255, or a batch with them under "images".

        Returns:
            Normalized images [B, 3, H, W].
        """
        images = as_batch(batched_inputs)["images"]
        return (images.to(self.device) - self.pixel_mean) / self.pixel_std
