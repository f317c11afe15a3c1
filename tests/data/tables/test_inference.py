"""The pattern that is inferred from paths, with its reason, or the question that is asked instead."""

import pytest

from fastreid.data.tables import PathPattern, PatternError, infer_pattern

PEOPLE, CAMERAS = [f"p{n}" for n in range(6)], ["door", "gate"]


@pytest.mark.parametrize(
    ("paths", "pattern", "reason"),
    [
        ([f"{c}/{p}/1.jpg" for c in CAMERAS for p in PEOPLE], "{camera}/{person}/{name}", "fewer names (door, gate)"),
        ([f"{p}/{c}/1.jpg" for c in CAMERAS for p in PEOPLE], "{person}/{camera}/{name}", "fewer names (door, gate)"),
        (
            [f"cam{c}/{p}/1.jpg" for c in range(9) for p in PEOPLE[:2]],
            "{camera}/{person}/{name}",
            "outer folders are called like cameras (cam0, cam1, cam2, … 9 in all)",
        ),
        ([f"{p}/C{c}/1.jpg" for c in (1, 2) for p in PEOPLE[:2]], "{person}/{camera}/{name}", "inner folders are"),
        ([f"{p}/{n}.jpg" for p in PEOPLE for n in range(3)], "{person}/{name}", "no cameras were found"),
        ([f"{p}/x_c{n}_5.jpg" for p in PEOPLE for n in range(3)], "{person}/*_c{camera:d}*", "digits in the file"),
        ([f"{p}/cam{n}-5.jpg" for p in PEOPLE for n in range(3)], "{person}/cam{camera:d}*", "digits in the file"),
        ([f"cam{c}/{p}_1.jpg" for c in (1, 2) for p in PEOPLE], "{camera}/{person}_*", "have an underscore"),
        ([f"{n:04}_c{n}s1_01.jpg" for n in range(3)], "{person:d}_c{camera:d}*", "Market-1501"),
        (
            [f"{s}/{n:04}_c1s1.jpg" for s in ("bounding_box_train", "query", "bounding_box_test") for n in range(3)],
            "{split}/{person:d}_c{camera:d}*",
            "parts of a data set",
        ),
        ([f"{s}/{p}/1.jpg" for s in ("Train", "test") for p in PEOPLE], "{split}/{person}/{name}", "are parts of a"),
    ],
)  # fmt: skip
def test_a_pattern_is_inferred(paths, pattern, reason):
    found = infer_pattern(paths)
    assert found.text == pattern and reason in found.reason
    assert all(PathPattern(found.text).read(path) for path in paths)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["a/1.jpg", "a/b/1.jpg"], "different numbers of folders above them \\(1 below 1 folders, 1 below 2 folders"),
        (["1.jpg", "2.jpg"], "all images are in one folder.*name the top one as --root"),
        (["a/b/c/1.jpg", "a/b/d/1.jpg"], "3 levels of folders, with 1, 1, 2 names"),
        (["x/a/1.jpg", "y/b/1.jpg", "y/c/1.jpg"], "no name of an inner folder occurs in two outer ones"),
        (["x/a/1.jpg", "y/a/1.jpg", "x/b/1.jpg", "y/b/1.jpg"], "as many names on both levels"),
        (["cam1/1.jpg", "cam1/2.jpg", "cam2/1.jpg"], "called like cameras"),
    ],
)
def test_paths_with_several_readings_ask_for_a_pattern(paths, message):
    with pytest.raises(PatternError, match=f"{message}.*--pattern"):
        infer_pattern(paths)
