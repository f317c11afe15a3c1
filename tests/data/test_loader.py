"""Workers send bytes; every view of a batch is float, and nothing else changes."""

from collections import UserList

import pytest
import torch

from fastreid.data.loader import PersonLoader
from fastreid.data.transforms import PersonTransform, Pixels


class Bytes(UserList):
    """Images of one colour, and a smaller view; of every second one the first row is erased."""

    transforms = {
        "images": PersonTransform(None, erase_value=(0.5, 1.5, 2.5)),
        "small": PersonTransform(None, erase_value=(9.0, 9.0, 9.0)),
    }

    def __getitem__(self, index):
        erased = torch.tensor([0, 0, index % 2, 2])
        return {
            "images": Pixels(torch.full((3, 4, 2), index, dtype=torch.uint8), erased),
            "small": Pixels(torch.full((3, 2, 2), index + 100, dtype=torch.uint8), erased),
            "targets": index,
        }


@pytest.mark.parametrize("num_workers", [0, 2])
def test_all_views_become_floats(num_workers):
    first, second = PersonLoader(Bytes(range(4)), batch_size=2, num_workers=num_workers)
    assert first.keys() == second.keys() == {"images", "small", "targets"} and second["targets"].tolist() == [2, 3]
    assert second["images"].dtype == torch.float32 and (second["images"][0] == 2).all()
    assert second["images"][1, :, 0, 0].tolist() == [0.5, 1.5, 2.5] and (second["images"][1, :, 1:] == 3).all()
    assert second["small"].shape == (2, 3, 2, 2) and (second["small"][0] == 102).all()
    assert (second["small"][1, :, 0] == 9).all() and (second["small"][1, :, 1] == 103).all()


def test_other_batches_are_handed_on():
    (batch,) = PersonLoader([{"images": 1.5}, {"images": 2.5}], batch_size=2)
    assert batch["images"].tolist() == [1.5, 2.5]


def test_a_batch_that_is_kept_is_not_written_over():
    kept = list(PersonLoader(Bytes(range(40)), batch_size=2, num_workers=2))
    assert [batch["images"][0, 0, 3, 0].item() for batch in kept] == list(range(0, 40, 2))


def test_the_random_state_is_drawn_from_when_an_iteration_begins():
    loader = PersonLoader(Bytes(range(4)), batch_size=2)
    with torch.random.fork_rng():
        batches = iter(loader)  # as the trainer does
    before = torch.get_rng_state()
    next(batches)
    assert torch.equal(torch.get_rng_state(), before)
