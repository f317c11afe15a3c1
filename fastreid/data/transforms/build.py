"""Transforms from a config: fast-reid's steps in fast-reid's order, with torchvision v2's random draws.

Resizing, padding, cropping and mirroring are one step on bytes (`ResizeCropFlip`). With rotation, colours and all other
augmentations, every step is torchvision v2's on Pillow images, which is slower. Both ways give the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from fastreid.config import CfgNode, image_size
from fastreid.data.transforms.person import PersonTransform, Picture, RandomErasing, ResizeCropFlip
from fastreid.data.transforms.resize import Rectangle, Size

_BICUBIC = InterpolationMode.BICUBIC
_ON_PILLOW = ("AUTOAUG", "CROP", "ROTATION", "CJ", "AFFINE", "AUGMIX")
AUGMENTATIONS = (*_ON_PILLOW, "PADDING", "REA")
"""Groups of INPUT that change training images at random, each by its ENABLED, besides mirroring (FLIP)."""


def build_transforms(cfg: CfgNode, is_train: bool = True) -> PersonTransform:
    """The transform of an RGB image, or of uint8 [h, w, 3].

    Training: AutoAugment, resize, random resized crop, pad and crop, flip, rotation, colour jitter, affine,
    AugMix, erasing; each by its `INPUT.*.ENABLED`. Test: resize, and with `INPUT.CROP` a centre crop of its size.

    Args:
        cfg: the configuration.
        is_train: build the transform of training images, with augmentations.
    """
    keys = cfg.INPUT
    if not is_train:
        height, width = keys.SIZE_TEST
        if keys.INTERPOLATION_TEST == "bilinear":
            return PersonTransform(_bilinear(cfg))
        crop = _centre_crop((height, width), image_size(cfg, is_train=False))
        return PersonTransform(ResizeCropFlip((height, width), crop=crop))
    geometry = _on_pillow_images(cfg) if _needs_pillow(cfg) else _on_bytes(cfg)
    erase = RandomErasing(image_size(cfg), keys.REA.PROB) if keys.REA.ENABLED else None
    return PersonTransform(geometry, erase, tuple(keys.REA.VALUE))


def _centre_crop(size: Size, crop: Size) -> Rectangle:
    """The rectangle of v2.CenterCrop; it extends over the edge where the crop is larger than the image."""
    top, left = (
        round((whole - part) / 2) if whole >= part else -((part - whole) // 2)
        for whole, part in zip(size, crop, strict=True)
    )
    return top, left, *crop


def _needs_pillow(cfg: CfgNode) -> bool:
    """Whether any step is enabled that `ResizeCropFlip` cannot do."""
    keys = cfg.INPUT
    return any(keys[name].ENABLED for name in _ON_PILLOW) or (keys.PADDING.ENABLED and keys.PADDING.MODE != "constant")


def _bilinear(cfg: CfgNode) -> Callable[[Picture], Tensor]:
    """The steps of test images with bilinear resizing, on Pillow images."""
    steps = [v2.Resize(tuple(cfg.INPUT.SIZE_TEST), interpolation=InterpolationMode.BILINEAR)]
    if cfg.INPUT.CROP.ENABLED:
        steps.append(v2.CenterCrop(image_size(cfg, is_train=False)))
    return _from_picture(v2.Compose([*steps, v2.PILToTensor()]))


def _from_picture(steps: Callable[[Image.Image], Tensor]) -> Callable[[Picture], Tensor]:
    return lambda picture: steps(Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture)


def _on_bytes(cfg: CfgNode) -> ResizeCropFlip:
    keys = cfg.INPUT
    return ResizeCropFlip(
        image_size(cfg),
        padding=keys.PADDING.SIZE if keys.PADDING.ENABLED else 0,
        flip=keys.FLIP.PROB if keys.FLIP.ENABLED else None,
    )


def _on_pillow_images(cfg: CfgNode) -> Callable[[Picture], Tensor]:
    """All steps on Pillow images."""
    resized = v2.Resize(tuple(cfg.INPUT.SIZE_TRAIN), interpolation=_BICUBIC)
    steps = v2.Compose([*_before_resize(cfg), resized, *_geometry(cfg), *_colour(cfg), v2.PILToTensor()])
    return _from_picture(steps)


def _before_resize(cfg: CfgNode) -> list[v2.Transform]:
    if not cfg.INPUT.AUTOAUG.ENABLED:
        return []
    policy = v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET)
    return [v2.RandomApply([policy], p=cfg.INPUT.AUTOAUG.PROB)]


def _geometry(cfg: CfgNode) -> list[v2.Transform]:
    keys = cfg.INPUT
    steps: list[v2.Transform] = []
    if keys.CROP.ENABLED:
        size, scale, ratio = tuple(keys.CROP.SIZE), tuple(keys.CROP.SCALE), tuple(keys.CROP.RATIO)
        steps.append(v2.RandomResizedCrop(size, scale, ratio, interpolation=_BICUBIC))
    if keys.PADDING.ENABLED:
        steps.append(v2.Pad(keys.PADDING.SIZE, padding_mode=keys.PADDING.MODE))
        steps.append(v2.RandomCrop(image_size(cfg)))
    if keys.FLIP.ENABLED:
        steps.append(v2.RandomHorizontalFlip(keys.FLIP.PROB))
    if keys.ROTATION.ENABLED:
        steps.append(v2.RandomRotation(keys.ROTATION.DEGREES, interpolation=InterpolationMode.BILINEAR))
    return steps


def _colour(cfg: CfgNode) -> list[v2.Transform]:
    keys = cfg.INPUT
    steps: list[v2.Transform] = []
    if keys.CJ.ENABLED:
        jitter = v2.ColorJitter(keys.CJ.BRIGHTNESS, keys.CJ.CONTRAST, keys.CJ.SATURATION, keys.CJ.HUE)
        steps.append(v2.RandomApply([jitter], p=keys.CJ.PROB))
    if keys.AFFINE.ENABLED:
        steps.append(v2.RandomAffine(degrees=10, scale=(0.9, 1.1), shear=(-0.1, 0.1)))
    if keys.AUGMIX.ENABLED:
        steps.append(v2.RandomApply([v2.AugMix()], p=keys.AUGMIX.PROB))
    return steps
