"""Roles of gallery images by labels alone, compared with a hand-made example."""

import numpy as np
import pytest

from fastreid.retrieval.matches import match_images, match_labels
from fastreid.structures import PersonImage
from fastreid.utils.errors import ArgumentError

LABELS = [1, 2, 9, -1], [2, 1, -1, 1, 1, 2, -2], [0, 1, 0, 0], [1, 0, 0, 1, 2, 0, 0]


def lists_of(matches):
    """The positives and the removed images of each query."""
    sides = (matches.positives, matches.positive_starts), (matches.removed, matches.removed_starts)
    return [[part.tolist() for part in np.split(images, starts[1:-1])] for images, starts in sides]


def test_roles_of_a_small_gallery():
    matches = match_labels(*LABELS)
    assert lists_of(matches) == [[[3, 4], [5], [], []], [[1], [0], [], []]]
    assert matches.junk.tolist() == [2] and matches.kept.tolist() == [0, 1, 3, 4, 5, 6]
    assert matches.num_positives.tolist() == [2, 1, 0, 0]
    assert matches.num_valid_gallery.tolist() == [5, 5, 6, 6]
    assert np.flatnonzero(matches.removed_mask(0)).tolist() == [1, 2]
    assert np.flatnonzero(matches.removed_mask(3)).tolist() == [2]


def test_matches_of_some_queries_or_some_gallery_images():
    matches = match_labels(*LABELS)
    assert lists_of(matches.of_queries(1, 3)) == [[[5], []], [[0], []]]
    assert lists_of(matches.select(np.array([0, 2, 3]))) == [[[3, 4], [], []], [[1], [], []]]
    kept = np.array([True, False, True, False, True, True, True])
    some = matches.among(np.array([True, False, True, True]), kept)
    assert lists_of(some) == [[[4], [], [], []], [[], [], [], []]]
    assert some.junk.tolist() == [1, 2, 3] and some.num_gallery == 7


def test_images_are_matched_as_their_labels():
    sides = ([PersonImage("", person, camera, 0) for person, camera in zip(*LABELS[n::2], strict=True)] for n in (0, 1))
    assert lists_of(match_images(*sides)) == lists_of(match_labels(*LABELS))


def test_ids_of_any_integer_type_match_but_not_beyond_64_bits_with_a_sign():
    greatest = np.iinfo(np.int64).max
    for dtype in (np.uint64, np.int64):
        assert match_labels(np.array([greatest], dtype), [1, greatest], [0], [1, 1]).positives.tolist() == [1]
    ids = [np.array([0, 1], np.uint64) for _ in range(4)]
    for number, name in enumerate(["query person", "gallery person", "query camera", "gallery camera"]):
        wrong = [values.copy() for values in ids]
        wrong[number][1] = greatest + 1
        with pytest.raises(ArgumentError, match=f"{name} id {greatest + 1} is too large"):
            match_labels(*wrong)


def test_other_numbers_of_descriptors_are_refused():
    matches = match_labels(*LABELS)
    matches.check_sizes(4, 7)
    for sizes in ((5, 7), (4, 6)):
        with pytest.raises(ArgumentError, match=f"{sizes[0]} query and {sizes[1]} gallery descriptors, but ids of 4"):
            matches.check_sizes(*sizes)


@pytest.mark.parametrize(("place", "said"), [(0, "query person"), (1, "gallery person"), (3, "gallery camera")])
def test_masked_ids_are_refused(place, said):
    ids = [np.ma.array(part, mask=[number == place] + [False] * (len(part) - 1)) for number, part in enumerate(LABELS)]
    with pytest.raises(ArgumentError, match=rf"{said} ids are masked \(1 of "):
        match_labels(*ids)
    match_labels(*(np.ma.array(part, mask=False) for part in LABELS))
