"""Stored features: the same as those of the encoder, complete or not there, and of one encoder and training set."""

import os
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from fastreid.config import ConfigError
from fastreid.data.transforms import DrawMirroring, ResizeCropFlip
from fastreid.methods.sd_reid.feature_cache import FeatureCache, FillFeatureCache, check_cacheable
from fastreid.structures import PersonFeatures, PersonImage
from fastreid.utils.errors import ArgumentError
from tests.modeling import toys

SIZE = 5


class Encoder(torch.nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor([scale]), requires_grad=False)

    def forward(self, images):
        columns = images.flatten(1)[:, :4] * self.scale
        return PersonFeatures(columns, 2 * columns, torch.stack([columns + 1, columns + 2], dim=1))


@dataclass
class FakeTrainingSet:
    images: list
    pictures: torch.Tensor

    def batches(self, images):
        torch.rand(1)  # as a loader that draws a seed
        for part in self.pictures.split(2):
            yield {"images": part}


@pytest.fixture
def training_set(tmp_path):
    images = []
    for number in range(SIZE):
        (tmp_path / f"{number}.jpg").write_bytes(b"x")
        images.append(PersonImage(str(tmp_path / f"{number}.jpg"), 0, 0))
    return FakeTrainingSet(images, torch.rand(SIZE, 3, 2, 4))


def fill(folder, training_set, encoder=None):
    cache = FeatureCache(str(folder))
    FillFeatureCache(cache, encoder or Encoder()).run(training_set)
    return cache


def test_features_are_those_of_the_encoder(tmp_path, training_set):
    cache = fill(tmp_path / "cache", training_set)
    indices, mirrored = torch.tensor([4, 0, 0, 2]), torch.tensor([False, True, False, True])
    stored = cache.features(indices, mirrored)
    pictures = training_set.pictures[indices]
    pictures = torch.where(mirrored[:, None, None, None], pictures.flip(-1), pictures)
    expected = Encoder()(pictures)
    assert torch.equal(stored.identity, expected.identity) and torch.equal(stored.view, expected.view)
    assert torch.equal(stored.id_conditions, expected.id_conditions)


def test_the_file_is_used_again_and_belongs_to_one_encoder_and_training_set(tmp_path, training_set, caplog):
    folder = tmp_path / "cache"
    first = fill(folder, training_set)
    before = os.stat(folder / first.name)
    assert fill(folder, training_set).name == first.name
    assert os.stat(folder / first.name).st_mtime_ns == before.st_mtime_ns
    assert fill(folder, training_set, Encoder(2.0)).name != first.name
    os.utime(training_set.images[0].path, (1, 1))  # a copy, or a file that was restored
    assert fill(folder, training_set).name == first.name
    with open(training_set.images[0].path, "ab") as file:
        file.write(b"another picture")
    assert fill(folder, training_set).name != first.name


def test_filling_draws_no_random_number(tmp_path, training_set):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    fill(tmp_path / "cache", training_set)
    assert torch.equal(torch.rand(3), expected)


def test_images_that_cannot_be_read_are_an_error_and_leave_no_file(tmp_path, training_set):
    training_set.pictures = training_set.pictures[:-1]
    with pytest.raises(ConfigError, match=r"1 of 5 training images cannot be read.*FEATURE_CACHE"):
        fill(tmp_path / "cache", training_set)
    assert not list((tmp_path / "cache").iterdir())


def test_a_resumed_run_finds_its_file_or_says_what_to_do(tmp_path, training_set):
    cache = fill(tmp_path / "cache", training_set)
    state = FillFeatureCache(cache, Encoder()).state_dict()
    resumed = FeatureCache(str(tmp_path / "cache"))
    task = FillFeatureCache(resumed, Encoder())
    task.load_state_dict(state)
    assert not task.is_due(1) and task.is_due(0)
    assert len(resumed.features(torch.tensor([0]), torch.tensor([False])).identity) == 1
    lost = FeatureCache(str(tmp_path / "elsewhere"))
    lost.use(state["file"])
    assert FillFeatureCache(lost, Encoder()).is_due(1)
    with pytest.raises(ArgumentError, match="is missing or damaged.*Set MODEL.SDMODEL.FEATURE_CACHE"):
        lost.features(torch.tensor([0]), torch.tensor([False]))


@pytest.mark.parametrize("name", ["PADDING", "REA", "CJ", "AUTOAUG"])
def test_other_augmentations_are_refused(name):
    cfg = toys.stage1_cfg()
    cfg.merge_from_list(["INPUT.PADDING.ENABLED", False, "INPUT.REA.ENABLED", False])
    check_cacheable(cfg)
    cfg.merge_from_list([f"INPUT.{name}.ENABLED", True])
    with pytest.raises(ConfigError, match=f"INPUT.{name}"):
        check_cacheable(cfg)


def test_other_test_sizes_are_refused():
    cfg = toys.stage1_cfg()
    cfg.merge_from_list(["INPUT.PADDING.ENABLED", False, "INPUT.REA.ENABLED", False, "INPUT.SIZE_TEST", [32, 16]])
    with pytest.raises(ConfigError, match="SIZE_TRAIN and INPUT.SIZE_TEST"):
        check_cacheable(cfg)


@pytest.mark.parametrize("content", [b"", b"not an array", "half"])
def test_a_damaged_file_is_logged_and_written_anew(tmp_path, training_set, caplog, content):
    cache = fill(tmp_path / "cache", training_set)
    path = tmp_path / "cache" / cache.name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    assert fill(tmp_path / "cache", training_set).name == path.name
    assert path.read_bytes() == whole and "is damaged" in caplog.text


@pytest.mark.parametrize("place", [0, 100, 200, -9, -1])
def test_one_flipped_bit_is_noticed_when_the_file_is_opened(tmp_path, training_set, caplog, place):
    cache = fill(tmp_path / "cache", training_set)
    path = tmp_path / "cache" / cache.name
    whole = bytearray(path.read_bytes())
    flipped = bytearray(whole)
    flipped[place] ^= 1
    path.write_bytes(flipped)
    lost = FeatureCache(str(tmp_path / "cache"))
    lost.use(cache.name)
    with pytest.raises(ArgumentError, match="is missing or damaged"):
        lost.read(torch.tensor([0]), torch.tensor([False]))
    assert fill(tmp_path / "cache", training_set).name == path.name
    assert path.read_bytes() == whole and "is damaged (its checksum differs" in caplog.text


def test_mirroring_is_drawn_as_for_images():
    picture = np.zeros((4, 2, 3), np.uint8)
    picture[:, 0] = 255
    images = ResizeCropFlip((4, 2), flip=0.5)
    for seed in range(20):
        torch.manual_seed(seed)
        mirrored = bool(images(picture)[0, 0, 1] > 128)
        torch.manual_seed(seed)
        assert bool(DrawMirroring(0.5)()) == mirrored
    assert not DrawMirroring(None)()


def test_a_dry_run_reads_zeros_and_writes_nothing(tmp_path, training_set):
    cache = FeatureCache(str(tmp_path / "cache"))
    FillFeatureCache(cache, Encoder()).rehearse(
        training_set, lambda compute, batches: compute(next(iter(batches))).shape
    )
    found = cache.features(torch.tensor([4, 0, 0]), torch.tensor([False, True, False]))
    real = fill(tmp_path / "real", training_set).features(torch.tensor([4, 0, 0]), torch.tensor([False, True, False]))
    for made_up, stored in zip(
        (found.identity, found.view, found.id_conditions), (real.identity, real.view, real.id_conditions), strict=True
    ):
        assert made_up.shape == stored.shape and not made_up.any()
    assert not (tmp_path / "cache").exists()
