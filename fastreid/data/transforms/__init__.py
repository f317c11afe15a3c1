"""From a decoded image to a [3, H, W] float tensor in 0..255 (the model normalises)."""

from fastreid.data.transforms.build import AUGMENTATIONS, build_transforms
from fastreid.data.transforms.person import (
    DrawMirroring,
    PersonTransform,
    Picture,
    Pixels,
    RandomErasing,
    ResizeCropFlip,
    ResizeRandomCrop,
)

__all__ = [
    "AUGMENTATIONS",
    "DrawMirroring",
    "PersonTransform",
    "Picture",
    "Pixels",
    "RandomErasing",
    "ResizeCropFlip",
    "ResizeRandomCrop",
    "build_transforms",
]
