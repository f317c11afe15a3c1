"""Training orders."""

from collections import Counter
from itertools import islice

import pytest

from fastreid.config import ConfigError
from fastreid.data.samplers import (
    BalancedIdentitySampler,
    ImbalancedDatasetSampler,
    InferenceSampler,
    NaiveIdentitySampler,
    RandomMultipleGallerySampler,
    SetReWeightSampler,
    TrainingSampler,
    ViewBalancedSampler,
    inference,
    uniform,
)
from fastreid.data.samplers.base import EndlessSampler
from fastreid.data.samplers.draws import TrainingDraws
from fastreid.data.samplers.fixed import FixedOrder

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


def test_impossible_batches_are_refused_with_the_numbers():
    with pytest.raises(ValueError, match="4 training people are fewer than the 16"):
        identity(batch_size=64)
    with pytest.raises(ValueError, match="batch of 10 .*NUM_INSTANCE=4"):
        identity(batch_size=10)
    with pytest.raises(ValueError, match="20 training images are fewer than one batch of 64"):
        TrainingSampler(PEOPLE, batch_size=64, seed=0)


def test_uniform_passes_show_every_image_once():
    stream = iter(TrainingSampler(PEOPLE, batch_size=10, seed=3))
    passes = [list(islice(stream, 20)) for _ in range(2)]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(20)) and passes[0] != passes[1]


CAMERAS = [0, 0, 1, 1, 2] + [3, 3] + [0, 1, 2] * 3 + [0, 0, 0, 1]
VIEWS = [camera % 2 for camera in CAMERAS]
SETS = [0] * 7 + [1] * 13  # people 0 and 1, then 2 and 3
HOW = {"batch_size": 8, "num_instances": 4, "seed": 0}
MAKERS = {
    "naive": identity,
    "uniform": lambda **o: TrainingSampler(PEOPLE, **{"batch_size": 8, "seed": 0, **o}),
    "balanced": lambda **o: BalancedIdentitySampler(PEOPLE, cameras=CAMERAS, **HOW | o),
    "gallery": lambda **o: RandomMultipleGallerySampler(PEOPLE, cameras=CAMERAS, **HOW | o),
    "views": lambda **o: ViewBalancedSampler(PEOPLE, views=VIEWS, **HOW | o),
    "rare": lambda **o: ImbalancedDatasetSampler(PEOPLE, **{"batch_size": 8, "seed": 0, **o}),
    "sets": lambda **o: SetReWeightSampler(PEOPLE, sets=SETS, set_weight=[1, 1], **HOW | o),
}


@pytest.mark.parametrize("name", MAKERS)
def test_fast_forward_continues_where_a_run_stopped(name):
    whole = list(islice(iter(MAKERS[name]()), 40))
    later = MAKERS[name]()
    later.fast_forward(3)
    assert list(islice(iter(later), 16)) == whole[24:40]
    assert whole != list(islice(iter(MAKERS[name](seed=1)), 40))


@pytest.mark.parametrize("name", MAKERS)
def test_processes_share_each_batch_people_undivided(name):
    whole = list(islice(iter(TrainingDraws(MAKERS[name](), 8)), 160))
    shares = [TrainingDraws(MAKERS[name](), 8, rank=rank, world_size=2) for rank in (0, 1)]
    if name not in ("uniform", "rare"):
        later = TrainingDraws(MAKERS[name](), 8, rank=1, world_size=2)
        later.fast_forward(3)
        assert next(iter(later)) == list(islice(iter(shares[1]), 13))[12]
    streams = [iter(share) for share in shares]
    for first in range(0, 160, 8):
        parts = [list(islice(stream, 4)) for stream in streams]
        assert sorted(parts[0] + parts[1], key=lambda draw: draw.number) == whole[first : first + 8]
        if name not in ("uniform", "rare"):
            assert all(len({PEOPLE[draw.image] for draw in part}) == 1 for part in parts)


def test_a_batch_that_processes_cannot_share_is_refused_with_the_numbers():
    with pytest.raises(ConfigError, match="IMS_PER_BATCH=8 is 2 people with DATALOADER.NUM_INSTANCE=4.*by 4 processes"):
        TrainingDraws(identity(), 8, rank=0, world_size=4)


@pytest.mark.parametrize("make", [BalancedIdentitySampler, RandomMultipleGallerySampler, ViewBalancedSampler])
@pytest.mark.parametrize(("people", "people_per_batch", "shown"), [(4, 1, 4), (4, 2, 4), (5, 3, 3), (4, 4, 4)])
def test_a_pass_shows_as_many_people_as_fill_its_batches(make, people, people_per_batch, shown):
    """Each once; in another order in the next pass."""
    persons = [image % people for image in range(8 * people)]
    places = {"views" if make is ViewBalancedSampler else "cameras": [image // people for image in range(8 * people)]}
    stream = iter(make(persons, batch_size=4 * people_per_batch, num_instances=4, seed=0, **places))
    passes = [[persons[image] for image in islice(stream, 4 * shown)][::4] for _ in range(12)]
    assert all(len(set(found)) == shown for found in passes) and len(set(map(tuple, passes))) > 1
    assert set().union(*passes) == set(range(people))


def test_groups_of_one_image_are_legal_and_of_none_are_not():
    assert sorted(islice(iter(identity(num_instances=1, batch_size=4)), 4)) != [0, 1, 2, 3]
    with pytest.raises(ConfigError, match="NUM_INSTANCE=0"):
        identity(num_instances=0)
    assert MAKERS["uniform"]().group_size == 1 and MAKERS["naive"]().group_size == 4


def test_as_many_images_as_are_asked_for_are_not_drawn_twice():
    sampler = SetReWeightSampler([0] * 4, sets=[0] * 4, set_weight=[1], batch_size=4, num_instances=4, seed=0)
    stream = iter(sampler)
    assert all(sorted(islice(stream, 4)) == [0, 1, 2, 3] for _ in range(10))


def test_balanced_prefers_other_cameras():
    stream = iter(MAKERS["balanced"]())
    for _ in range(50):
        group = list(islice(stream, 4))
        assert len({PEOPLE[image] for image in group}) == 1
        cameras = [CAMERAS[image] for image in group]
        if PEOPLE[group[0]] == 1:  # two images under one camera: the other one, again and again
            assert len(set(group)) == 2 and len(set(group[1:])) == 1
        else:
            assert cameras[0] not in cameras[1:]
            if PEOPLE[group[0]] == 2:
                assert len(set(group)) == 4  # six images elsewhere: none twice


def test_galleries_are_of_other_cameras_and_repeat_only_if_there_are_too_few():
    stream, repeated = iter(MAKERS["gallery"]()), Counter()
    for _ in range(200):
        first, *others = islice(stream, 4)
        person = PEOPLE[first]
        same = [image for image in range(20) if PEOPLE[image] == person and image != first]
        elsewhere = [image for image in same if CAMERAS[image] != CAMERAS[first]]
        assert set(others) <= set(elsewhere or same)
        if len(elsewhere or same) >= 4:
            assert len(set(others)) == 3
        repeated[len(elsewhere or same)] += len(set(others)) < 3
    # Three images to draw three from are drawn with replacement, as in the released programs.
    assert repeated[3] > 0 and repeated[6] == 0


@pytest.mark.parametrize("make", [BalancedIdentitySampler, RandomMultipleGallerySampler])
def test_a_person_of_one_image_is_repeated(make):
    sampler = make([0, 1], cameras=[0, 0], batch_size=4, num_instances=4, seed=0)
    assert list(islice(iter(sampler), 4)) in ([0] * 4, [1] * 4)


def test_views_are_shared_equally():
    stream, odd = iter(MAKERS["views"]()), Counter()
    for _ in range(60):
        group = list(islice(stream, 4))
        views = Counter(VIEWS[image] for image in group)
        assert set(views.values()) == ({4} if PEOPLE[group[0]] == 1 else {2})  # person 1 has one view
    three = iter(ViewBalancedSampler(PEOPLE, views=VIEWS, batch_size=3, num_instances=3, seed=0))
    for _ in range(60):
        group = list(islice(three, 3))
        odd[Counter(VIEWS[image] for image in group).most_common()[0]] += PEOPLE[group[0]] != 1
    assert odd[(0, 2)] > 5 and odd[(1, 2)] > 5  # the view that has one more takes turns


def test_rare_people_are_drawn_as_often_as_others():
    drawn = Counter(PEOPLE[i] for i in islice(iter(MAKERS["rare"]()), 8000))
    assert all(abs(count / 8000 - 1 / 4) < 0.02 for count in drawn.values())


def test_sets_have_their_shares():
    sampler = SetReWeightSampler(
        [0, 1, 2, 3, 4, 5], sets=[0, 0, 0, 0, 1, 1], set_weight=[2, 1], **HOW | {"batch_size": 6, "num_instances": 2}
    )
    stream = iter(sampler)
    for _ in range(20):
        batch = list(islice(stream, 6))
        assert sum(image < 4 for image in batch) == 4
        assert sorted(Counter(batch).values()) == [2, 2, 2]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"set_weight": []}, "for each of the 2 training sets, got \\[\\]"),
        ({"set_weight": [1, 1, 1]}, "for each of the 2 training sets, got \\[1, 1, 1\\]"),
        ({"set_weight": [1, 0]}, "positive whole number"),
        ({"set_weight": [1, 1.5]}, "positive whole number"),
        ({"set_weight": [2, 1]}, "2 people to a batch .* multiple of 3"),
        ({"set_weight": [3, 1], "batch_size": 16}, "training set 0 has 2 people, fewer than the 3"),
    ],
)
def test_impossible_shares_are_refused_with_the_numbers(options, said):
    with pytest.raises(ConfigError, match=said):
        SetReWeightSampler(PEOPLE, sets=SETS, **HOW | options)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 9])
def test_every_image_is_evaluated_once_in_order(monkeypatch, world_size):
    shares = []
    for rank in range(world_size):
        monkeypatch.setattr(inference.comm, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(inference.comm, "get_world_size", lambda: world_size)
        sampler = InferenceSampler(7)
        shares.append(list(sampler))
        assert len(sampler) == len(shares[-1])
    assert [index for share in shares for index in share] == list(range(7))
    with pytest.raises(ValueError, match="size=0"):
        InferenceSampler(0)


def test_one_image_is_evaluated():
    assert list(InferenceSampler(1)) == [0]


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_without_a_batch_processes_take_images_in_turn(monkeypatch, rank):
    monkeypatch.setattr(uniform.comm, "get_rank", lambda: rank)
    monkeypatch.setattr(uniform.comm, "get_world_size", lambda: 3)
    whole, later = TrainingSampler(20, seed=3), TrainingSampler(20, seed=3)
    drawn = list(islice(whole.stream(), 60))[rank::3]
    assert list(islice(iter(whole), 20)) == drawn
    later.batch_size = 2  # as the loader sets it, of one process
    later.fast_forward(4)
    assert list(islice(iter(later), 5)) == drawn[8:13]


def test_an_order_has_groups_of_one_image_by_default():
    order = FixedOrder([4, 2, 3], batch_size=2)
    assert order.group_size == 1 and list(islice(iter(order), 4)) == [4, 2, 3, 4]


def test_an_order_of_a_user_has_groups_of_one_image_by_default():
    class Order(EndlessSampler):
        def stream(self):
            return iter([2, 0, 1])

    order = Order(2)
    assert (order.batch_size, order.group_size, list(order)) == (2, 1, [2, 0, 1])


def test_no_images_are_fewer_than_one():
    with pytest.raises(ConfigError, match="0 training images are fewer than one batch of 1;"):
        TrainingSampler(0, seed=0)
