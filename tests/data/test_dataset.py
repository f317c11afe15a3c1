"""Items of a data set, and augmentations that follow from a draw's number in the run."""

import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from fastreid.data.dataset import PersonDataset, TrainingDataset, preserved_generators, seed_generators
from fastreid.data.samplers.draws import Draw, TrainingDraws
from fastreid.data.samplers.fixed import FixedOrder
from fastreid.data.transforms import PersonTransform, Pixels, RandomErasing, ResizeCropFlip
from fastreid.structures import PersonImage
from fastreid.utils.errors import ArgumentError

SIZE, BATCH = (16, 8), 4


@pytest.fixture
def images(tmp_path):
    """Five images of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 20, 10, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    return [PersonImage(str(tmp_path / f"{number}.png"), 10 + number, number % 2, 1) for number in range(5)]


def augmented():
    return PersonTransform(ResizeCropFlip(SIZE, padding=2, flip=0.5), RandomErasing(SIZE, 0.5))


def three_generators(picture):
    """A user-defined transform."""
    assert isinstance(picture, Image.Image)
    return torch.tensor([random.random(), np.random.random(), torch.rand(()).item()])


def training_set(images, seed=3, **views):
    transforms = {"images": augmented(), **views}
    return TrainingDataset(images, transforms, range(len(images)), seed=seed, batch_size=BATCH)


def batches(dataset, num_workers, count, skip=0, name="images", **share):
    draws = TrainingDraws(FixedOrder([0, 1, 2, 3, 4], batch_size=BATCH), BATCH, **share)
    draws.fast_forward(skip)
    size = BATCH // share.get("world_size", 1)
    loader = DataLoader(dataset, batch_size=size, sampler=draws, num_workers=num_workers)
    found = [batch[name] for batch, _ in zip(loader, range(count), strict=False)]
    return torch.stack([torch.cat([x.flatten(1).float() for x in v], 1) if isinstance(v, Pixels) else v for v in found])


def test_an_item_has_the_keys_of_a_batch(images):
    item = PersonDataset(images, {"images": augmented()})[3]
    assert item["images"].shape == (3, *SIZE) and item["images"].dtype == torch.float32
    assert {name: value for name, value in item.items() if name != "images"} == {
        "targets": 13, "camids": 1, "viewids": 1, "img_paths": images[3].path, "indices": 3,
    }  # fmt: skip


def test_a_training_item_knows_its_position_in_the_batch_of_all(images):
    dataset = training_set(images)
    found = [dataset[Draw(2, number)] for number in (0, 3, 4, 9)]
    assert [item["position"] for item in found] == [0, 3, 0, 1] and {item["batch_size"] for item in found} == {BATCH}
    assert {item["indices"] for item in found} == {item["targets"] for item in found} == {2}


@pytest.mark.parametrize(
    ("views", "message"), [({}, "'images' must be one"), ({"images": None, "targets": None}, r"called \['targets'\]")]
)
def test_names_of_views_are_checked(views, message):
    with pytest.raises(ArgumentError, match=message):
        PersonDataset([], views)


def test_the_number_of_labels_is_checked(images):
    with pytest.raises(ArgumentError, match="2 labels for 5 training images"):
        training_set(images).set_labels([0, 1])


def test_negative_labels_are_no_class(images):
    dataset = training_set(images)
    dataset.set_labels([0, -1, 4, 4, -1])
    assert dataset.num_classes == 2 and dataset[Draw(3, 0)]["targets"] == 4


def test_any_number_of_workers_draws_the_same(images):
    dataset = training_set(images, drawn=three_generators)
    for name in ("images", "drawn"):
        alone = batches(dataset, 0, 6, name=name)
        assert torch.equal(alone, batches(dataset, 1, 6, name=name))
        assert torch.equal(alone, batches(dataset, 3, 6, name=name))
    assert alone.unique().numel() == alone.numel()  # no two draws are alike


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_run_draws_on(images, num_workers):
    dataset = training_set(images)
    assert torch.equal(batches(dataset, 0, 6)[4:], batches(dataset, num_workers, 2, skip=4))


def test_processes_draw_together_what_one_draws(images):
    dataset = training_set(images)
    whole, shares = batches(dataset, 0, 6), [batches(dataset, 0, 6, rank=rank, world_size=2) for rank in (0, 1)]
    assert torch.equal(whole[:, 0::2], shares[0]) and torch.equal(whole[:, 1::2], shares[1])


def test_an_item_is_the_same_alone_and_in_a_batch(images):
    dataset, draws = training_set(images), [Draw(2, 7), Draw(2, 8), Draw(0, 3)]
    for in_batch, draw in zip(dataset.__getitems__(draws), draws, strict=True):
        assert torch.equal(in_batch["images"].to_float(augmented().erase_value), dataset[draw]["images"])


def test_a_further_view_changes_nothing_and_has_its_own_stream(images):
    alone, both = training_set(images), training_set(images, noise=augmented(), drawn=three_generators)
    for number in range(12):
        (first,), (second,) = (each.__getitems__([Draw(number % 5, number)]) for each in (alone, both))
        assert all(map(torch.equal, first["images"], second["images"]))
        with preserved_generators():
            seed_generators(3, number, "noise")
            expected = augmented().pixels(Image.open(images[number % 5].path))
        assert all(map(torch.equal, second["noise"], expected))
    drawn = [both[Draw(0, number)] for number in range(40)]
    assert any(not torch.equal(item["images"], item["noise"]) for item in drawn)


def test_other_seeds_draw_other_numbers(images):
    assert not torch.equal(batches(training_set(images), 0, 2), batches(training_set(images, seed=4), 0, 2))


def test_the_generators_of_the_process_are_preserved(images):
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    dataset = training_set(images, drawn=three_generators)
    dataset.__getitems__([Draw(0, 0), Draw(1, 1)])
    images[2] = PersonImage("nowhere.png", 0, 0)
    with pytest.raises(RuntimeError, match="no such file"):
        dataset[Draw(2, 0)]
    assert random.getstate() == states[0] and (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])


def test_a_data_set_can_be_sent_to_a_worker(images):
    dataset = training_set(images)
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[Draw(2, 7)]["images"], dataset[Draw(2, 7)]["images"])
