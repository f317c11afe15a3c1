"""fast-reid's transforms, in fast-reid's order, on torchvision v2."""

import torch
from torchvision.transforms import InterpolationMode, v2

from fastreid.config import CfgNode

_BICUBIC = InterpolationMode.BICUBIC


def build_transforms(cfg: CfgNode, is_train: bool = True) -> v2.Compose:
    """PIL image -> float32 tensor [3, H, W] in 0..255.

    Training: AutoAugment, resize, random resized crop, pad and crop, flip, rotation, colour jitter, affine,
    AugMix, erasing; each by its `INPUT.*.ENABLED`. Test: resize, and with `INPUT.CROP` a centre crop of its size.
    """
    if not is_train:
        crop = [v2.CenterCrop(tuple(cfg.INPUT.CROP.SIZE))] if cfg.INPUT.CROP.ENABLED else []
        return v2.Compose([_resize(cfg.INPUT.SIZE_TEST), *crop, *_to_float()])
    return v2.Compose(
        [
            *_before_resize(cfg),
            _resize(cfg.INPUT.SIZE_TRAIN),
            *_geometry(cfg),
            *_colour(cfg),
            *_to_float(),
            *_erasing(cfg),
        ]
    )


def _resize(size: list[int]) -> v2.Transform:
    return v2.Resize(tuple(size), interpolation=_BICUBIC)


def _to_float() -> list[v2.Transform]:
    return [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=False)]


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
        steps.append(v2.RandomCrop(tuple(keys.CROP.SIZE if keys.CROP.ENABLED else keys.SIZE_TRAIN)))
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


def _erasing(cfg: CfgNode) -> list[v2.Transform]:
    if not cfg.INPUT.REA.ENABLED:
        return []
    # Area 2-40 % as in the random-erasing paper (Zhong et al., 2020), with fast-reid's fill in 0..255.
    value = list(cfg.INPUT.REA.VALUE)
    return [v2.RandomErasing(p=cfg.INPUT.REA.PROB, scale=(0.02, 0.4), ratio=(0.3, 3.33), value=value)]
