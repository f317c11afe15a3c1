"""From a decoded image to a [3, H, W] float tensor in 0..255 (the model normalises)."""

from fastreid.data.transforms.build import PersonTransform, build_transforms
from fastreid.data.transforms.pixels import Pixels

__all__ = ["PersonTransform", "Pixels", "build_transforms"]
