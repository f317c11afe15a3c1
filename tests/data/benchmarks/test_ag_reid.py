"""AG-ReID v1 and v2: identities, cameras, protocols, and files that are not as they should be."""

import numpy as np
import pytest
from scipy.io import savemat

from fastreid.data.benchmarks import BENCHMARK_OF
from fastreid.data.benchmarks.ag_reid import read_attributes
from fastreid.data.datasets import DatasetError
from fastreid.retrieval.matches import match_images
from tests.data.benchmarks.trees import labels, load, touch

# Person 6, T 02140, altitude 0 -> identity 6021400.
ONE, TWO, OTHER_DAY = "P0006T02140A0", "P0007T02140A0", "P0006T02151A2"


@pytest.fixture
def v1(tmp_path):
    touch(
        tmp_path / "AG-ReID",
        f"bounding_box_train/{ONE}C0F1.jpg",
        f"bounding_box_train/{OTHER_DAY}C3F2.jpg",
        f"query_all_c0/{ONE}C0F3.jpg",
        f"query_all_c0/{TWO}C0F4.jpg",
        f"query_all_c3/image/{ONE}C3F5.jpg",  # an inner folder, as some copies have
        f"bounding_box_test_all_c3/{ONE}C3F6.jpg",
        f"bounding_box_test_all_c3/{OTHER_DAY}C3F7.jpg",
        f"bounding_box_test_all_c0/{ONE}C0F8.jpg",
    )
    return tmp_path


def test_v1_protocols_by_hand(v1):
    to_ground, to_air = load("AG_ReID_v1_AG", v1), load("AG_ReID_v1_GA", v1)
    assert labels(to_ground.train) == [(6021400, 0, 0), (6021512, 1, 1)]
    assert labels(to_ground.query) == [(6021400, 0, 0), (7021400, 0, 0)]
    # The same person on another day is somebody else.
    assert labels(to_ground.gallery) == [(6021400, 1, 1), (6021512, 1, 1)]
    assert (labels(to_air.query), labels(to_air.gallery)) == ([(6021400, 1, 1)], [(6021400, 0, 0)])
    assert match_images(to_ground.query, to_ground.gallery).num_positives.tolist() == [1, 0]


def test_the_plain_name_is_an_alias_of_one_protocol(v1):
    assert BENCHMARK_OF["AG_ReID_v1"].aliases == {"AG_ReID_v1": "AG_ReID_v1_AG"}
    assert load("AG_ReID_v1", v1).gallery == load("AG_ReID_v1_AG", v1).gallery


def test_a_camera_that_v1_does_not_have_is_logged_and_skipped(v1, caplog):
    touch(v1 / "AG-ReID", f"bounding_box_test_all_c3/{TWO}C2F9.jpg")
    assert len(load("AG_ReID_v1_AG", v1).gallery) == 2
    assert "bounding_box_test_all_c3: 1 images skipped: camera C2, where the benchmark has C0, C3" in caplog.text


def test_images_of_the_other_view_in_a_folder_are_an_error(v1):
    touch(v1 / "AG-ReID", f"query_all_c0/{TWO}C3F9.jpg")
    with pytest.raises(DatasetError, match="query_all_c0, 1 of 3 images are not aerial.*C3F9.jpg: were files"):
        load("AG_ReID_v1_AG", v1)


def test_known_other_figures_are_logged_with_a_difference(v1, caplog):
    load("AG_ReID_v1_AG", v1)
    assert "2 images where 1,071 are published" in caplog.text and "The README says 1,701" in caplog.text


def lists(home, **files: str):
    for name, text in files.items():
        (home / f"{name}.txt").write_bytes(text.encode())


@pytest.fixture
def v2(tmp_path):
    home = touch(
        tmp_path / "AG-ReID.v2",
        f"train_all/{ONE}/{ONE}C0F1.jpg",
        f"train_all/{ONE}/{ONE}C2F2.jpg",
        f"query/{TWO}/{TWO}C0F3.jpg",
        f"query/{TWO}/{TWO}C3F4.jpg",
        f"gallery/{TWO}/{TWO}C0F5.jpg",
        f"gallery/{TWO}/{TWO}C2F6.jpg",
        f"gallery/{TWO}/{TWO}C3F7.jpg",
    )
    query, gallery = f"query/{TWO}/{TWO}", f"gallery/{TWO}/{TWO}"
    lists(
        home,
        exp1_aerial_to_cctv=f"{query}C0F3.jpg\n{gallery}C3F7.jpg",  # no newline at the end
        exp2_aerial_to_wearable=f"{query}C0F3.jpg\r\n{gallery}C2F6.jpg\r\n",
        exp4_cctv_to_aerial=f"{query}C3F4.jpg\n\n  \n{gallery}C0F5.jpg\n\n".replace("/", "\\"),
        exp5_wearable_to_aerial=f"{query}C3F4.jpg\n{gallery}C0F5.jpg\n",
    )
    return tmp_path


@pytest.mark.parametrize(
    ("protocol", "query", "gallery"),
    [("AC", (0, 0), (1, 1)), ("AW", (0, 0), (2, 2)), ("CA", (1, 1), (0, 0))],
)
def test_v2_protocols_by_hand_whatever_the_line_endings(v2, protocol, query, gallery):
    dataset = load(f"AG_ReID_v2_{protocol}", v2)
    assert labels(dataset.train) == [(6021400, 0, 0), (6021400, 2, 2)]
    assert labels(dataset.query) == [(7021400, *query)] and labels(dataset.gallery) == [(7021400, *gallery)]


def test_list_files_that_were_mixed_up_are_an_error(v2):
    with pytest.raises(DatasetError, match="queries of exp5_wearable_to_aerial.txt, 1 of 1 images are not wearable"):
        load("AG_ReID_v2_WA", v2)


# Attributes


def test_attributes_are_read_when_asked_for(tmp_path):
    table = {"image_index": np.array(["P0006", "P0007"], dtype=object), "gender": [1, 2], "hat": [0, 1]}
    savemat(tmp_path / "qut.mat", {"qut_attribute": {"train": table, "test": {**table, "hat": [1, 1]}}})
    attributes = read_attributes(tmp_path / "qut.mat")
    assert attributes["train"] == {"P0006": {"gender": 1, "hat": 0}, "P0007": {"gender": 2, "hat": 1}}
    assert attributes["test"]["P0006"]["hat"] == 1


def test_a_file_without_attributes_says_so(tmp_path):
    savemat(tmp_path / "other.mat", {"x": np.eye(2)})
    with pytest.raises(DatasetError, match="has no table of attributes"):
        read_attributes(tmp_path / "other.mat")
    savemat(tmp_path / "ragged.mat", {"a": {"image_index": [1.0, 2.0, 3.0], "hat": [1]}})
    with pytest.raises(DatasetError, match="cannot read attributes from .*ragged.mat"):
        read_attributes(tmp_path / "ragged.mat")
    with pytest.raises(DatasetError, match="no attribute file .*nothing.mat"):
        read_attributes(tmp_path / "nothing.mat")
    (tmp_path / "text.mat").write_text("no")
    with pytest.raises(DatasetError, match="cannot read attributes from .*text.mat"):
        read_attributes(tmp_path / "text.mat")
