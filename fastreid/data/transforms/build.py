"""fast-reid's transforms, in fast-reid's order, with torchvision v2's random draws.

Resizing, padding, cropping and mirroring are one step on bytes (`Place`). Rotation, colours and whatever else needs a
picture take the slower way, torchvision v2 on Pillow's images; both give the same pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from fastreid.config import CfgNode, image_size
from fastreid.data.transforms.pixels import Pixels
from fastreid.data.transforms.resize import Part, Size, resize

_BICUBIC = InterpolationMode.BICUBIC


class PersonTransform:
    """A decoded image -> float32 tensor [3, H, W] in 0..255, or the same as bytes.

    Args:
        place: picture -> uint8 [3, H, W].
        erase: draws what is erased, int64 [4]; None erases nothing.
        erase_value: what is put there, in 0..255.
    """

    def __init__(
        self,
        place: Callable[[Image.Image | np.ndarray], Tensor],
        erase: Callable[[], Tensor] | None = None,
        erase_value: tuple[float, ...] = (0.0, 0.0, 0.0),
    ) -> None:
        self._place, self._erase, self.erase_value = place, erase, erase_value

    def __call__(self, picture: Image.Image | np.ndarray) -> Tensor:
        """An RGB picture, or uint8 [h, w, 3]."""
        return self.pixels(picture).to_float(self.erase_value)

    def pixels(self, picture: Image.Image | np.ndarray) -> Pixels:
        """The same, for a loader that finishes it by `Pixels.to_float`."""
        image = self._place(picture)
        return Pixels(image, _NOTHING if self._erase is None else self._erase())


def build_transforms(cfg: CfgNode, is_train: bool = True) -> PersonTransform:
    """The transform of an RGB picture, or of uint8 [h, w, 3].

    Training: AutoAugment, resize, random resized crop, pad and crop, flip, rotation, colour jitter, affine,
    AugMix, erasing; each by its `INPUT.*.ENABLED`. Test: resize, and with `INPUT.CROP` a centre crop of its size.
    """
    if not is_train:
        size = tuple(cfg.INPUT.SIZE_TEST)
        return PersonTransform(Place(size, kept=_middle(size, image_size(cfg, is_train=False))))
    keys = cfg.INPUT
    place = _pictures(cfg) if _needs_pictures(cfg) else _place(cfg)
    erase = Erase(image_size(cfg), keys.REA.PROB) if keys.REA.ENABLED else None
    return PersonTransform(place, erase, tuple(keys.REA.VALUE))


def _middle(size: Size, crop: Size) -> Part:
    """Where v2.CenterCrop cuts `crop` out of `size`; it reaches over the edge where the crop is larger."""
    top, left = (
        round((whole - part) / 2) if whole >= part else -((part - whole) // 2)
        for whole, part in zip(size, crop, strict=True)
    )
    return top, left, *crop


class Place:
    """Resize, then as training asks: pad with black and crop at random, mirror at random.

    Args:
        size: (height, width) to resize to.
        kept: the part of that which is the result; all of it if left out.
        padding: black pixels on each side, before a crop of `size`; 0 does not crop.
        flip: how likely the image is mirrored; None draws no number.
    """

    def __init__(self, size: Size, *, kept: Part | None = None, padding: int = 0, flip: float | None = None) -> None:
        self.size, self.padding, self.flip = size, padding, flip
        self.kept = (0, 0, *size) if kept is None else kept

    def __call__(self, picture: Image.Image | np.ndarray) -> Tensor:
        # As v2.RandomCrop and v2.RandomHorizontalFlip draw; asking them takes longer than all the rest.
        top, left, *shape = self.kept
        if self.padding:
            top, left = torch.randint(-self.padding, self.padding + 1, (2,)).tolist()
        mirrored = self.flip is not None and torch.rand(1).item() < self.flip
        return torch.from_numpy(resize(np.asarray(picture), self.size, (top, left, *shape), mirrored=mirrored))


class Erase:
    """What random erasing (Zhong et al., 2020) erases of an image of `size`: int64 [4].

    The area is 2 to 40 % of the image, its height 0.3 to 3.33 of its width.
    """

    def __init__(self, size: Size, probability: float) -> None:
        self.size, self.probability = size, probability
        self._log_ratio = torch.tensor([0.3, 3.33]).log().tolist()

    def __call__(self) -> Tensor:
        # As v2.RandomErasing draws.
        if torch.rand(1).item() >= self.probability:
            return _NOTHING
        height, width = self.size
        for _ in range(10):
            area = height * width * torch.empty(1).uniform_(0.02, 0.4).item()
            ratio = torch.empty(1).uniform_(*self._log_ratio).exp_().item()
            high, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if high < height and wide < width:
                top, left = (int(torch.randint(stop, ())) for stop in (height - high + 1, width - wide + 1))
                return torch.tensor([top, left, high, wide])
        return _NOTHING


_NOTHING = torch.zeros(4, dtype=torch.int64)


def _needs_pictures(cfg: CfgNode) -> bool:
    """Whether anything is asked for that `Place` cannot do."""
    keys = cfg.INPUT
    steps = (keys.AUTOAUG, keys.CROP, keys.ROTATION, keys.CJ, keys.AFFINE, keys.AUGMIX)
    return any(step.ENABLED for step in steps) or (keys.PADDING.ENABLED and keys.PADDING.MODE != "constant")


def _place(cfg: CfgNode) -> Place:
    keys = cfg.INPUT
    return Place(
        image_size(cfg),
        padding=keys.PADDING.SIZE if keys.PADDING.ENABLED else 0,
        flip=keys.FLIP.PROB if keys.FLIP.ENABLED else None,
    )


def _pictures(cfg: CfgNode) -> Callable[[Image.Image | np.ndarray], Tensor]:
    """All steps on Pillow's images."""
    resized = v2.Resize(tuple(cfg.INPUT.SIZE_TRAIN), interpolation=_BICUBIC)
    steps = v2.Compose([*_before_resize(cfg), resized, *_geometry(cfg), *_colour(cfg), v2.PILToTensor()])
    return lambda picture: steps(Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture)


def _before_resize(cfg: CfgNode) -> list[v2.Transform]:
    if not cfg.INPUT.AUTOAUG.ENABLED:
        return []
    policy = v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET)
    return [v2.RandomApply([policy], p=cfg.INPUT.AUTOAUG.PROB)]


def _geometry(cfg: CfgNode) -> list[v2.Transform]:
    keys, steps = cfg.INPUT, []
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
    keys, steps = cfg.INPUT, []
    if keys.CJ.ENABLED:
        jitter = v2.ColorJitter(keys.CJ.BRIGHTNESS, keys.CJ.CONTRAST, keys.CJ.SATURATION, keys.CJ.HUE)
        steps.append(v2.RandomApply([jitter], p=keys.CJ.PROB))
    if keys.AFFINE.ENABLED:
        steps.append(v2.RandomAffine(degrees=10, scale=(0.9, 1.1), shear=(-0.1, 0.1)))
    if keys.AUGMIX.ENABLED:
        steps.append(v2.RandomApply([v2.AugMix()], p=keys.AUGMIX.PROB))
    return steps
