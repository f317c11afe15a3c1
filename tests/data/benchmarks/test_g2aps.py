"""G2APS-ReID: two cameras, unlabelled distractors, list files."""

import pytest

from fastreid.data.datasets import DatasetError
from fastreid.retrieval.matches import match_images
from fastreid.structures import UNNAMED_PERSON
from tests.data.benchmarks.trees import labels, load, touch

LISTS = {
    "exp3_A2G+.txt": [
        *("query_c0/0007/0007_c0v1_000001.jpg", "bounding_box_test_c3/0007/0007_c3v2_000003.jpg"),
        "bounding_box_gallery/5555_c3v1_000005.jpg",
    ],
    "exp4_G2A+.txt": [
        *("query_c3/0007/0007_c3v1_000002.jpg", "bounding_box_test_c0/0007/0007_c0v2_000004.jpg"),
        "bounding_box_gallery/5555_c0v1_000006.jpg",
    ],
}


@pytest.fixture(params=["", "\r\n"], ids=["unix", "windows"])
def root(tmp_path, request):
    """As the scripts write it on either system: theirs has backslashes and other line ends on Windows."""
    home = touch(tmp_path / "G2APS-ReID", *(f"bounding_box_train/0001/0001_c{c}v1_00000{c}.jpg" for c in (0, 3)))
    for name, lines in LISTS.items():
        touch(home, *lines)
        text = "\n".join(lines) + "\n"
        if request.param:
            text = text.replace("/", "\\").replace("\n", request.param)
        (home / name).write_bytes(text.encode())
    return tmp_path


def test_protocols_by_hand(root):
    to_ground, to_air = load("G2APS_ReID_A2G", root), load("G2APS_ReID_G2A", root)
    assert labels(to_ground.train) == [(1, 0, 0), (1, 1, 1)]
    assert (labels(to_ground.query), labels(to_ground.gallery)) == ([(7, 0, 0)], [(7, 1, 1), (UNNAMED_PERSON, 1, 1)])
    assert (labels(to_air.query), labels(to_air.gallery)) == ([(7, 1, 1)], [(7, 0, 0), (UNNAMED_PERSON, 0, 0)])
    assert match_images(to_air.query, to_air.gallery).num_positives.tolist() == [1]
    assert load("G2APS_ReID", root).gallery == to_ground.gallery


def test_a_list_for_one_way_under_the_name_of_the_other(root):
    home = root / "G2APS-ReID"
    (home / "exp3_A2G+.txt").write_bytes((home / "exp4_G2A+.txt").read_bytes())
    with pytest.raises(DatasetError, match=r"queries of exp3_A2G\+.txt, 1 of 1 images are not aerial.*mixed up"):
        load("G2APS_ReID_A2G", root)
