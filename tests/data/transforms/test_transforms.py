"""Transforms: value range, size, order."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastreid.config import get_cfg
from fastreid.data.transforms import build_transforms

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 30, 3), dtype=np.uint8))


def cfg_of(*options):
    cfg = get_cfg()
    cfg.merge_from_list(["INPUT.SIZE_TRAIN", [64, 32], "INPUT.SIZE_TEST", [64, 32], *options])
    return cfg


def test_test_transform_is_bicubic_resize_in_0_255():
    tensor = build_transforms(cfg_of(), is_train=False)(IMAGE)
    expected = torch.from_numpy(np.asarray(IMAGE.resize((32, 64), Image.Resampling.BICUBIC)).copy()).permute(2, 0, 1)
    assert tensor.dtype == torch.float32 and torch.equal(tensor, expected.float())


@pytest.mark.parametrize("name", ["FLIP", "PADDING", "ROTATION", "CJ", "AFFINE", "AUTOAUG", "AUGMIX", "REA", "CROP"])
def test_each_augmentation_does_something_and_keeps_size_and_range(name):
    options = [f"INPUT.{name}.ENABLED", True]
    if name not in ("PADDING", "ROTATION", "AFFINE", "CROP"):
        options += [f"INPUT.{name}.PROB", 1.0]
    cfg = cfg_of(*options, "INPUT.CROP.SIZE", [64, 32])
    plain = build_transforms(cfg_of())(IMAGE)
    torch.manual_seed(1)
    changed = [build_transforms(cfg)(IMAGE) for _ in range(4)]
    assert all(image.shape == plain.shape and 0 <= image.min() and image.max() <= 255 for image in changed)
    assert any(not torch.equal(image, plain) for image in changed)


def test_erasing_fills_with_its_value():
    cfg = cfg_of("INPUT.REA.ENABLED", True, "INPUT.REA.PROB", 1.0, "INPUT.REA.VALUE", [1.0, 2.0, 3.0])
    erased = build_transforms(cfg)(IMAGE)
    changed = (erased != build_transforms(cfg_of())(IMAGE)).any(dim=0)
    assert changed.float().mean() >= 0.01
    assert (erased[:, changed] == torch.tensor([1.0, 2.0, 3.0])[:, None]).all()
