"""LAGPeR: cameras without a tenth, people without a name, three protocols."""

from pathlib import Path

import pytest

from fastreid.data.benchmarks.base import UnexpectedCamera
from fastreid.data.benchmarks.lagper import read_lagper
from fastreid.retrieval.matches import match_images
from fastreid.structures import UNNAMED_PERSON
from tests.data.benchmarks.trees import labels, load, touch


@pytest.mark.parametrize(
    ("number", "camera", "view"), [(3, 3, 0), (4, 4, 1), (9, 9, 0), (11, 10, 1), (13, 12, 0), (22, 21, 0)]
)
def test_cameras_above_ten_move_down_after_the_view_is_read(number, camera, view):
    assert labels([read_lagper(Path(f"0001_c{number}_1.jpg"))]) == [(1, camera, view)]


@pytest.mark.parametrize("number", [0, 10, 23])
def test_cameras_that_are_not_there_are_skipped(number):
    with pytest.raises(UnexpectedCamera, match=f"camera c{number}, where the benchmark has c1 to c22 without c10"):
        read_lagper(Path(f"0001_c{number}_1.jpg"))


def test_other_names_are_refused():
    with pytest.raises(ValueError, match="is not PERSON_cCAMERA"):
        read_lagper(Path("Cam1_day_1_1.jpg"))


@pytest.fixture
def root(tmp_path):
    home = touch(
        tmp_path / "LAGPeR",
        *("bounding_box_train/all/0001_c3_a.jpg", "bounding_box_train/all/0001_c11_b.jpg"),
        "bounding_box_train/all/-1_c3_c.jpg",
        *("query_air/0007_c13_d.jpg", "query_ground/0007_c12_e.jpg"),
        *("test/0007_c13_f.jpg", "test/0007_c14_g.jpg", "test/-1_c14_h.jpg", "test/0008_c12_i.jpg"),
    )
    (home / "exp3_A2G+.txt").write_text(
        "query_air/0007_c13_d.jpg\ntest/0007_c14_g.jpg\ntest/-1_c14_h.jpg\ntest/0008_c12_i.jpg\n"
    )
    (home / "exp4_G2A+.txt").write_text("query_ground/0007_c12_e.jpg\ntest/0007_c13_f.jpg\n")
    (home / "exp5_G2A+G.txt").write_text(
        "query_ground/0007_c12_e.jpg\ntest/0007_c13_f.jpg\ntest/0007_c14_g.jpg\ntest/0008_c12_i.jpg\n"
    )
    return tmp_path


def test_protocols_by_hand(root):
    to_ground, to_air, to_both = (load(f"LAGPeR_{way}", root) for way in ("A2G", "G2A", "G2AG"))
    assert labels(to_ground.train) == [(1, 10, 1), (1, 3, 0)]  # nobody is not trained on
    assert labels(to_ground.query) == [(7, 12, 0)]
    assert labels(to_ground.gallery) == [(7, 13, 1), (UNNAMED_PERSON, 13, 1), (8, 11, 1)]
    assert (labels(to_air.query), labels(to_air.gallery)) == ([(7, 11, 1)], [(7, 12, 0)])
    assert labels(to_both.gallery) == [(7, 12, 0), (7, 13, 1), (8, 11, 1)]
    assert load("LAGPeR", root).query == to_ground.query


def test_nobody_stays_in_the_gallery_as_a_wrong_answer(root):
    dataset = load("LAGPeR_A2G", root)
    matches = match_images(dataset.query, dataset.gallery)
    assert matches.num_positives.tolist() == [1] and matches.num_valid_gallery.tolist() == [3]
