"""Workers that lay images in shared places: the same batches as by any other way, which nothing changes afterwards."""

import sys
from collections import UserList
from unittest import mock

import pytest
import torch
from torch.utils.data import default_collate

from fastreid.data.handover import Packing, Parcel, Places, unpack
from fastreid.data.loader import PersonLoader
from fastreid.data.skipping import collate
from fastreid.data.transforms import PersonTransform, Pixels

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="workers are forked")


class Pictures(UserList):
    """Images [3, 4, 2], or of `odd` [3, 5, 2]; every second one erased in part."""

    transform = PersonTransform(None, erase_value=(0.5, 1.5, 2.5))
    odd = ()

    def __getitem__(self, index):
        draws = torch.Generator().manual_seed(index)
        image = torch.randint(256, (3, 5 if index in self.odd else 4, 2), generator=draws, dtype=torch.uint8)
        erased = torch.tensor([1, 0, index % 2, 2])
        return {"images": Pixels(image, erased), "targets": index, "weight": torch.ones(3), "img_paths": f"{index}.jpg"}


class Leaky(Pictures):
    """Every third cannot be read, as with DATALOADER.BAD_IMAGES skip."""

    def __getitem__(self, index):
        if index % 3 == 0:
            return {"skipped": [(f"{index}.jpg", "cut")]}
        return {**super().__getitem__(index), "skipped": []}


def loader(images, num_workers=2, **options):
    options = {"batch_size": 4, "image_size": (4, 2)} | options
    options.setdefault("multiprocessing_context", "fork" if num_workers else None)
    return PersonLoader(images, num_workers=num_workers, **options)


def used(batches):
    """The batches, and how many of them lay in places."""
    count = []
    with mock.patch("fastreid.data.loader.unpack", lambda sent, *rest: count.append(sent.place) or unpack(sent, *rest)):
        return list(batches), sum(place is not None for place in count)


def alike(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name]


@pytest.mark.parametrize(("kind", "collate_fn"), [(Pictures, None), (Leaky, collate)])
def test_batches_are_those_of_one_process(kind, collate_fn):
    """Eight, each worker's places more than once; the last one is smaller. Kept ones are not written over."""
    images = kind(range(30))
    ours, count = used(loader(images, collate_fn=collate_fn))
    theirs = list(loader(images, num_workers=0, collate_fn=collate_fn))
    assert count == len(ours) == len(theirs) == 8
    for pair in zip(ours, theirs, strict=True):
        alike(*pair)


def test_images_of_another_size_come_another_way():
    images = Pictures(range(12))
    images.odd = range(4, 8)
    ours, count = used(loader(images))
    assert [batch["images"].shape[2] for batch in ours] == [4, 5, 4] and count == 2
    alike(ours[1], list(loader(images, num_workers=0))[1])


@pytest.mark.parametrize("options", [{"image_size": None}, {"device": "cuda"}, {"multiprocessing_context": "spawn"}])
def test_where_workers_are_not_forked_or_a_gpu_reads_torch_hands_over(options):
    images = Pictures(range(8))
    assert loader(images)._places() is not None and loader(images, **options)._places() is None


def test_two_iterations_at_once_do_not_meet():
    ours = loader(Pictures(range(40)))
    first, second = iter(ours), iter(ours)
    kept = [(next(first), next(second)) for _ in range(8)]
    for pair in kept:
        alike(*pair)


def test_a_place_that_was_filled_again_is_noticed():
    places, packing = Places(1, 2, (4, 3, 4, 2)), Packing(default_collate)
    packing.places = places
    with mock.patch("fastreid.data.handover.get_worker_info", return_value=mock.Mock(id=0)):
        first, second, third = (packing([Pictures()[index]]) for index in range(3))
    assert isinstance(first, Parcel) and first.place == (0, 0, 1) and third.place == (0, 0, 3)
    assert torch.equal(
        unpack(second, places, lambda pixels: pixels.image.clone())["images"][0], Pictures()[1]["images"].image
    )
    with pytest.raises(RuntimeError, match="data worker 0 is further ahead"):
        unpack(first, places, lambda pixels: pixels.image.clone())
