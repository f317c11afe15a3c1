"""Transforms: value range, size, order."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import default_collate
from torchvision.transforms import v2

from fastreid.config import get_cfg
from fastreid.data.transforms import Pixels, build_transforms
from fastreid.data.transforms.person import erase

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 30, 3), dtype=np.uint8))


def cfg_of(*options):
    cfg = get_cfg()
    cfg.merge_from_list(["INPUT.SIZE_TRAIN", [64, 32], "INPUT.SIZE_TEST", [64, 32], *options])
    return cfg


def test_test_transform_is_bicubic_resize_in_0_255():
    tensor = build_transforms(cfg_of(), is_train=False)(IMAGE)
    expected = torch.from_numpy(np.asarray(IMAGE.resize((32, 64), Image.Resampling.BICUBIC)).copy()).permute(2, 0, 1)
    assert tensor.dtype == torch.float32 and torch.equal(tensor, expected.float())


def test_test_images_can_be_resized_bilinearly_and_cropped():
    bilinear = ["INPUT.INTERPOLATION_TEST", "bilinear"]
    resized = torch.from_numpy(np.asarray(IMAGE.resize((32, 64), Image.Resampling.BILINEAR)).copy()).permute(2, 0, 1)
    assert torch.equal(build_transforms(cfg_of(*bilinear), is_train=False)(IMAGE), resized.float())
    cropped = build_transforms(
        cfg_of(*bilinear, "INPUT.CROP.ENABLED", True, "INPUT.CROP.SIZE", [60, 30]), is_train=False
    )
    assert torch.equal(cropped(np.asarray(IMAGE)), resized[:, 2:62, 1:31].float())


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


# The bytes that loaders carry, and torchvision's own steps


def torchvision(cfg):
    """What every re-identification library does: fast-reid's steps on Pillow's images."""
    keys, steps = cfg.INPUT, [v2.Resize(tuple(cfg.INPUT.SIZE_TRAIN), interpolation=v2.InterpolationMode.BICUBIC)]
    if keys.PADDING.ENABLED:
        steps += [v2.Pad(keys.PADDING.SIZE), v2.RandomCrop(tuple(keys.SIZE_TRAIN))]
    if keys.FLIP.ENABLED:
        steps.append(v2.RandomHorizontalFlip(keys.FLIP.PROB))
    steps += [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=False)]
    if keys.REA.ENABLED:
        value = list(keys.REA.VALUE)
        steps.append(v2.RandomErasing(p=keys.REA.PROB, scale=(0.02, 0.4), ratio=(0.3, 3.33), value=value))
    return v2.Compose(steps)


@pytest.mark.parametrize("enabled", list(itertools.product([False, True], repeat=3)), ids=str)
@pytest.mark.parametrize("size", [[64, 32], [9, 21]], ids=str)
def test_draws_and_pixels_are_torchvision_s(enabled, size):
    cfg = cfg_of("INPUT.SIZE_TRAIN", size, "INPUT.PADDING.SIZE", 7, "INPUT.REA.PROB", 0.8)
    for name, on in zip(("PADDING", "FLIP", "REA"), enabled, strict=True):
        cfg.INPUT[name].ENABLED = on
    ours, theirs = build_transforms(cfg), torchvision(cfg)
    for seed in range(30):
        torch.manual_seed(seed)
        expected, after = theirs(IMAGE), torch.rand(1)
        for picture in (IMAGE, np.asarray(IMAGE)):
            torch.manual_seed(seed)
            assert torch.equal(ours(picture), expected) and torch.equal(torch.rand(1), after)


@pytest.mark.parametrize("name", ["CJ", "AUTOAUG", "AUGMIX", "ROTATION"])
def test_steps_on_pictures_take_arrays_too(name):
    transform = build_transforms(cfg_of(f"INPUT.{name}.ENABLED", True))
    found = []
    for picture in (IMAGE, np.asarray(IMAGE)):
        torch.manual_seed(2)
        found.append(transform(picture))
    assert torch.equal(*found)


def test_a_batch_of_bytes_becomes_the_floats_of_its_images():
    transform = build_transforms(cfg_of("INPUT.REA.ENABLED", True, "INPUT.FLIP.ENABLED", True))
    torch.manual_seed(3)
    expected = torch.stack([transform(IMAGE) for _ in range(8)])
    torch.manual_seed(3)
    batch = default_collate([transform.pixels(IMAGE) for _ in range(8)])
    assert isinstance(batch, Pixels) and batch.image.dtype == torch.uint8 and batch.image.shape == (8, 3, 64, 32)
    before = batch.image.clone()
    assert torch.equal(batch.to_float(transform.erase_value), expected) and torch.equal(batch.image, before)
    assert 0 < (batch.erased[:, 2] > 0).sum() < 8


def test_erasing_as_on_a_gpu_gives_the_same_bits():
    draw = torch.Generator().manual_seed(3)
    image = torch.randint(0, 256, (4, 3, 9, 6), generator=draw, dtype=torch.uint8)
    rectangles = torch.tensor([[0, 0, 9, 6], [2, 1, 4, 3], [5, 5, 0, 0], [8, 0, 1, 2]])
    colour = torch.tensor([1.5, 0.1, 254.9])
    expected = Pixels(image, rectangles).to_float(colour.tolist())
    assert torch.equal(erase(image.float(), rectangles, colour), expected)
    assert torch.equal(erase(image[1].float(), rectangles[1], colour), expected[1])
    assert torch.equal(expected[2], image[2].float())


def test_an_image_without_room_to_erase_is_left_whole():
    transform = build_transforms(cfg_of("INPUT.SIZE_TRAIN", [1, 1], "INPUT.REA.ENABLED", True, "INPUT.REA.PROB", 1.0))
    assert torch.equal(transform(IMAGE), build_transforms(cfg_of("INPUT.SIZE_TRAIN", [1, 1]))(IMAGE))
