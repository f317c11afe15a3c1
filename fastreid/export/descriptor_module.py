"""A model as a module with tensors as inputs and output: what an exported file computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreid.modeling.image_module import ImageModule
from fastreid.retrieval.extraction import mirrored

IMAGES = "images"
OPTIONAL_INPUTS = ("camids", "viewids")
"""Keys of a batch that an exported file can have as inputs, int64 [B], besides the images."""

Inputs = Mapping[str, Tensor]
"""Name of an input -> its value."""


class DescriptorModule(nn.Module):
    """Images, and ids of cameras or views if the model reads them -> descriptors.

    Args:
        model: a model in eval mode.
        averages_mirrored: whether descriptors are the mean of those of an image and of its mirror image.
        has_unit_length: whether descriptors have unit length.
    """

    def __init__(self, model: nn.Module, *, averages_mirrored: bool, has_unit_length: bool) -> None:
        super().__init__()
        self.model = model
        self.averages_mirrored, self.has_unit_length = averages_mirrored, has_unit_length

    def forward(self, images: Tensor, camids: Tensor | None = None, viewids: Tensor | None = None) -> Tensor:
        """Return the descriptors [B, D] in float32, of images [B, 3, H, W] and of ids [B]."""
        ids = {"camids": camids, "viewids": viewids}
        batch = {IMAGES: images.float(), **{name: value for name, value in ids.items() if value is not None}}
        rows = self.model(batch).float()
        if self.averages_mirrored:
            rows = (rows + self.model(mirrored(batch)).float()) / 2
        return F.normalize(rows, dim=1) if self.has_unit_length else rows


class _UnknownKey(KeyError):
    """A key that an exported file cannot have as an input."""


class _RecordingBatch(dict):
    """A batch that knows which of its keys were read."""

    def __init__(self, content: Mapping[str, Tensor]) -> None:
        super().__init__(content)
        self.read: set[str] = set()

    def __missing__(self, key: str) -> Any:
        raise _UnknownKey(key)

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or the default."""
        if key in self:
            self.read.add(key)
        return super().get(key, default)


def inputs_of(model: nn.Module, images: Tensor) -> list[str]:
    """Return the keys of a batch that a model reads in eval mode: "images", then those of `OPTIONAL_INPUTS`.

    Args:
        model: a model in eval mode.
        images: [B, 3, H, W], with which it is run once.

    Raises:
        KeyError: it reads a key that an exported file cannot have as an input.
    """
    ids = torch.zeros(images.shape[0], dtype=torch.int64)
    batch = _RecordingBatch({IMAGES: images.float(), **dict.fromkeys(OPTIONAL_INPUTS, ids)})
    try:
        model(batch)
    except _UnknownKey as error:
        raise KeyError(error.args[0]) from error
    return [IMAGES, *(name for name in OPTIONAL_INPUTS if name in batch.read)]


def normalization_of(model: nn.Module) -> tuple[list[float], list[float]] | None:
    """Return the mean and the standard deviation by which a model normalizes pixels; None if there is no single one."""
    modules = _image_modules(model)
    found = {(tuple(_numbers(module.pixel_mean)), tuple(_numbers(module.pixel_std))) for module in modules}
    if len(found) != 1:
        return None
    ((mean, deviation),) = found
    return list(mean), list(deviation)


@contextmanager
def without_normalization(model: nn.Module) -> Iterator[None]:
    """Make a model take images that are normalized already, in the block."""
    before = [(module, module.pixel_mean, module.pixel_std) for module in _image_modules(model)]
    try:
        for module, mean, deviation in before:
            module.pixel_mean, module.pixel_std = torch.zeros_like(mean), torch.ones_like(deviation)
        yield
    finally:
        for module, mean, deviation in before:
            module.pixel_mean, module.pixel_std = mean, deviation


def _image_modules(model: nn.Module) -> Sequence[ImageModule]:
    return [module for module in model.modules() if isinstance(module, ImageModule)]


def _numbers(tensor: Tensor) -> list[float]:
    return [round(value, 6) for value in tensor.flatten().tolist()]
