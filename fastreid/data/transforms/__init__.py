"""From a decoded image to a [3, H, W] float tensor in 0..255 (the model normalises)."""

from fastreid.data.transforms.build import build_transforms

__all__ = ["build_transforms"]
