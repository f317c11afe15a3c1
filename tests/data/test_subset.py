"""DATASETS.SUBSET: a share of the people, or of the images of each; nested, seeded, beside DATASETS.PEOPLE."""

from collections import Counter

import pytest

from fastreid.config import ConfigError, check_ranges, get_cfg
from fastreid.data.subset import TrainingPart
from fastreid.structures import PersonImage

RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


def images(folder="/data/set", people=20, each=10):
    """Images of people, the first of whom has one and the second two."""
    counts = [1, 2, *[each] * (people - 2)]
    return [
        (PersonImage(f"{folder}/cam{number % 3}/{who}_{number}.jpg", who, number % 3), who)
        for who, count in enumerate(counts)
        for number in range(count)
    ]


def chosen(mode, ratio=0.5, seed=0, pairs=None, people=(0.0, 1.0)):
    return TrainingPart(people, mode, ratio, seed).of(images() if pairs is None else pairs, "Set")


def paths(*args, **options):
    return {image.path for image, _ in chosen(*args, **options)}


def test_nothing_is_left_out_by_default():
    pairs = images()
    assert TrainingPart.from_config(get_cfg()).of(pairs, "Set") == pairs
    assert chosen("small_scale", 1.0) == chosen("few_shot", 1.0) == pairs


def test_small_scale_keeps_people_with_all_their_images():
    counts, everything = Counter(who for _, who in chosen("small_scale", 0.3)), Counter(who for _, who in images())
    assert len(counts) == 6 and all(counts[who] == everything[who] for who in counts)


def test_few_shot_keeps_everybody_and_two_images_at_least():
    for ratio, most in ((0.1, 2), (0.3, 3), (0.9, 9)):
        counts = Counter(who for _, who in chosen("few_shot", ratio))
        assert [counts[who] for who in range(20)] == [1, 2, *[most] * 18]


@pytest.mark.parametrize("mode", ["small_scale", "few_shot"])
def test_smaller_shares_are_parts_of_larger_ones_and_seeds_differ(mode):
    nested = [paths(mode, ratio) for ratio in RATIOS]
    assert all(small < large for small, large in zip(nested, nested[1:], strict=False))
    assert paths(mode, seed=1) != paths(mode, seed=0) == paths(mode)


@pytest.mark.parametrize("mode", ["small_scale", "few_shot"])
def test_the_choice_depends_on_names_not_on_folder_or_order(mode):
    moved = {path.replace("/elsewhere/x", "/data/set") for path in paths(mode, pairs=images("/elsewhere/x"))}
    assert moved == paths(mode) == paths(mode, pairs=images()[::-1])
    order = [image.path for image, _ in images()]
    assert [order.index(image.path) for image, _ in chosen(mode)] == sorted(order.index(p) for p in paths(mode))


def test_it_is_a_part_of_the_part_of_people():
    part = chosen("none", people=(0.0, 0.5))
    both = chosen("small_scale", 0.3, people=(0.0, 0.5))
    assert len({who for _, who in both}) == 3 and {who for _, who in both} < {who for _, who in part}
    assert {who for _, who in chosen("few_shot", 0.3, people=(0.0, 0.5))} == {who for _, who in part}


def test_what_cannot_be_chosen_is_explained():
    with pytest.raises(ConfigError, match="RATIO 0.01 leaves none of the 20 training people of Set: .* needs 0.05"):
        chosen("small_scale", 0.01)
    with pytest.raises(ConfigError, match="SUBSET.MODE few_shot chooses by people, but those of Set are not known"):
        chosen("few_shot", pairs=[(PersonImage("a.jpg", -1, 0), None)])


@pytest.mark.parametrize(("key", "value"), [("MODE", "fewshot"), ("RATIO", 0.0), ("RATIO", 1.5), ("SEED", -1)])
def test_keys_out_of_range_are_refused(key, value):
    cfg = get_cfg()
    cfg.merge_from_list([f"DATASETS.SUBSET.{key}", value])
    with pytest.raises(ConfigError, match=f"DATASETS.SUBSET.{key} must be"):
        check_ranges(cfg)
