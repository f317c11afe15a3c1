"""Patterns of paths: what is read, and what is wrong with a pattern."""

import pytest

from fastreid.data.tables import PathPattern, PatternError


@pytest.mark.parametrize(
    ("pattern", "path", "values"),
    [
        ("{camera}/{person}/{name}", "door/ann/1.jpg", {"camera": "door", "person": "ann"}),
        ("{person}/{name}", "ann b/x.y.png", {"person": "ann b"}),
        ("{person}_c{camera:d}*", "0002_c13s1_000451_03.jpg", {"person": "0002", "camera": "13"}),
        ("{person}_c{camera:d}*", "7_c2.jpg", {"person": "7", "camera": "2"}),
        ("{split}/{person}/{camera}-*.jpg", "train/7/roof-1.png", {"split": "train", "person": "7", "camera": "roof"}),
        ("*/{person}/{view}/*", "x/7/aerial/1.jpg", {"person": "7", "view": "aerial"}),
        ("{person}+({camera})", "a.b+(c).jpg", {"person": "a.b", "camera": "c"}),
        ("{camera}/{person}/{name}", "door/1.jpg", None),
        ("{camera}/{person}/{name}", "a/door/ann/1.jpg", None),
        ("{person:d}/{name}", "ann/1.jpg", None),
    ],
)
def test_a_path_is_read(pattern, path, values):
    assert PathPattern(pattern).read(path) == values


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{camera}/{name}", "has no {person}"),
        ("{persn}/{name}", "person"),
        ("{person:s}/{name}", "field"),
        ("{person}/{person}_*", "has {person} twice"),
        ("", "has no {person}"),
    ],
)
def test_a_wrong_pattern_is_refused(pattern, message):
    with pytest.raises(PatternError, match=message.replace("{", r"\{")):
        PathPattern(pattern)
