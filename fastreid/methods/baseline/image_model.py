"""What every model that takes images in 0..255 shares."""

from typing import Any

import torch
from torch import Tensor, nn


class ImageModel(nn.Module):
    """Holds the mean and standard deviation of pixels, which are not in checkpoints, and normalises.

    Args:
        pixel_mean, pixel_std: of each channel of images in 0..255.
    """

    def __init__(self, pixel_mean: list[float], pixel_std: list[float]) -> None:
        super().__init__()
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(1, -1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def preprocess_image(self, batched_inputs: dict[str, Any] | Tensor) -> Tensor:
        """Images [B, 3, H, W] in 0..255, left as they were -> normalised ones on the model's device."""
        images = batched_inputs["images"] if isinstance(batched_inputs, dict) else batched_inputs
        return (images.to(self.device) - self.pixel_mean) / self.pixel_std
