"""Training orders."""

from collections import Counter
from itertools import islice

import pytest

from fastreid.data.samplers import NaiveIdentitySampler, TrainingSampler

PEOPLE = [0] * 5 + [1] * 2 + [2] * 9 + [3] * 4


def identity(**options):
    return NaiveIdentitySampler(PEOPLE, **{"batch_size": 8, "num_instances": 4, "seed": 0, **options})


def test_every_batch_has_p_people_with_k_images():
    stream = iter(identity())
    for _ in range(20):
        people = [PEOPLE[i] for i in islice(stream, 8)]
        assert sorted(Counter(people).values()) == [4, 4]
        assert people[:4] == people[:1] * 4


def test_images_of_a_person_are_dealt_before_they_repeat():
    """Person 2's nine images in groups of four: the first two groups share no image."""
    sampler = NaiveIdentitySampler([0] * 9, batch_size=4, num_instances=4, seed=1)
    assert len(set(islice(iter(sampler), 8))) == 8


def test_ranks_take_different_people_of_the_same_draw():
    streams = [iter(identity(batch_size=4, rank=rank, world_size=2)) for rank in (0, 1)]
    for _ in range(20):
        first, second = ({PEOPLE[i] for i in islice(stream, 4)} for stream in streams)
        assert len(first) == len(second) == 1 and first != second


def test_impossible_batches_are_refused_with_the_numbers():
    with pytest.raises(ValueError, match="4 training people are fewer than the 16"):
        identity(batch_size=64)
    with pytest.raises(ValueError, match="batch of 10 .*NUM_INSTANCE=4"):
        identity(batch_size=10)
    with pytest.raises(ValueError, match="20 training images are fewer than one batch of 64"):
        TrainingSampler(PEOPLE, batch_size=64, num_instances=4, seed=0)


def test_uniform_passes_show_every_image_once_and_ranks_share_them():
    streams = [
        iter(TrainingSampler(PEOPLE, batch_size=5, num_instances=1, seed=3, rank=r, world_size=2)) for r in (0, 1)
    ]
    shares = [list(islice(stream, 10)) for stream in streams]
    assert sorted(shares[0] + shares[1]) == list(range(20))


@pytest.mark.parametrize("make", [identity, lambda: TrainingSampler(PEOPLE, batch_size=8, num_instances=4, seed=0)])
def test_fast_forward_continues_where_a_run_stopped(make):
    whole = list(islice(iter(make()), 40))
    later = make()
    later.fast_forward(3)
    assert list(islice(iter(later), 16)) == whole[24:40]
