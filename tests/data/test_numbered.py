"""Augmentations belong to a place in the run, whichever worker draws them, and whenever."""

import itertools
import pickle
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from fastreid.data.numbered import Draw, NumberedDataset, NumberedSampler
from fastreid.data.samplers.base import EndlessSampler


class Noise(Dataset):
    """Each item is its index and what three generators say."""

    label = "noise"

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return {"drawn": torch.tensor([index, random.random(), np.random.random(), torch.rand(()).item()])}


class Broken(Noise):
    def __getitem__(self, index):
        super().__getitem__(index)
        raise KeyError


class Endless(EndlessSampler):
    def stream(self):
        return itertools.cycle(range(5))


def batches(num_workers, count, skip=0, seed=3, **share):
    sampler = NumberedSampler(Endless(4), 4, **share)
    sampler.fast_forward(skip)
    dataset, size = NumberedDataset(Noise(), seed, 4), 4 // share.get("world_size", 1)
    loader = DataLoader(dataset, batch_size=size, sampler=sampler, num_workers=num_workers)
    return torch.stack([batch["drawn"] for batch, _ in zip(loader, range(count), strict=False)])


def test_any_number_of_workers_draws_the_same():
    alone = batches(0, 6)
    assert torch.equal(alone, batches(1, 6)) and torch.equal(alone, batches(3, 6))
    assert alone[:, :, 1:].unique().numel() == alone[:, :, 1:].numel()  # and no two draws are alike


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_run_draws_on(num_workers):
    assert torch.equal(batches(0, 6)[4:], batches(num_workers, 2, skip=4))


def test_processes_draw_together_what_one_draws():
    whole, shares = batches(0, 6), [batches(0, 6, rank=rank, world_size=2) for rank in (0, 1)]
    assert torch.equal(whole[:, 0::2], shares[0]) and torch.equal(whole[:, 1::2], shares[1])


def test_an_item_is_the_same_alone_and_in_a_batch():
    dataset, draws = NumberedDataset(Noise(), 0, 4), [Draw(2, 7), Draw(2, 8), Draw(0, 3)]
    for together, draw in zip(dataset.__getitems__(draws), draws, strict=True):
        assert torch.equal(together["drawn"], dataset[draw]["drawn"])


def test_an_item_knows_its_place_in_the_batch_of_all():
    assert [NumberedDataset(Noise(), 0, 4)[Draw(0, number)]["position"] for number in (0, 3, 4, 9)] == [0, 3, 0, 1]


def test_other_seeds_draw_other_numbers():
    assert not torch.equal(batches(0, 1), batches(0, 1, seed=4))


def test_the_generators_of_the_process_are_left_alone():
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    NumberedDataset(Noise(), 0, 4).__getitems__([Draw(0, 0), Draw(1, 1)])
    with pytest.raises(KeyError):
        NumberedDataset(Broken(), 0, 4)[Draw(0, 0)]
    assert random.getstate() == states[0] and (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])


def test_a_dataset_keeps_its_attributes_and_can_be_sent_to_a_worker():
    dataset = pickle.loads(pickle.dumps(NumberedDataset(Noise(), 0, 4)))
    assert dataset.label == "noise" and len(dataset) == 5
    assert torch.equal(dataset[Draw(2, 7)]["drawn"], NumberedDataset(Noise(), 0, 4)[Draw(2, 7)]["drawn"])


def test_somebody_s_sampler_that_cannot_skip_is_counted_on():
    sampler = NumberedSampler([3, 1], 2)
    sampler.fast_forward(5)
    assert list(sampler) == [Draw(3, 10), Draw(1, 11)]


def test_somebody_s_sampler_gives_this_process_s_images_by_itself():
    sampler = NumberedSampler([3, 1, 4, 1], 4, rank=1, world_size=2)
    sampler.fast_forward(1)
    assert list(sampler) == [Draw(3, 6), Draw(1, 7), Draw(4, 10), Draw(1, 11)]
