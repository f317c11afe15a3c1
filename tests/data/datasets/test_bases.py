"""Data sets written for fast-reid and SD-ReID: from a file of the user's, unchanged."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from fastreid.config import get_cfg
from fastreid.data import build_datasets
from fastreid.data.datasets import DATASET_REGISTRY, DatasetError, ImageDataset
from fastreid.structures import PersonImage
from fastreid.utils.user_code import UserCodeError, import_file
from tests.data.benchmarks.trees import labels

MINE = '''
"""A data set as users of fast-reid write them."""
import os.path as osp

from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.bases import ImageDataset


@DATASET_REGISTRY.register()
class {name}(ImageDataset):
    dataset_dir = "mine"
    dataset_name = "mine"

    def __init__(self, root="datasets", **kwargs):
        self.dataset_dir = osp.join(root, self.dataset_dir)
        self.check_before_run([self.dataset_dir])
        train = lambda: [("a.jpg", self.dataset_name + "_7", "mine_c2"), ("b.jpg", self.dataset_name + "_3", "mine_c1")]
        query = [("c.jpg", 9, 0)]
        gallery = [("d.jpg", 9, 1), ("e.jpg", -1, 1)]
        super().__init__(train, query, gallery, **kwargs)
'''


@pytest.fixture
def registered(tmp_path, request):
    name = f"Mine_{request.node.name}"
    (tmp_path / "my_dataset.py").write_text(MINE.format(name=name))
    (tmp_path / "mine").mkdir()
    import_file(str(tmp_path / "my_dataset.py"))
    yield name
    del DATASET_REGISTRY._objects[name]


def test_a_file_of_the_users_is_imported_and_its_tuples_are_read(registered, tmp_path):
    cfg = get_cfg()
    cfg.merge_from_list(["DATASETS.ROOT", str(tmp_path)])
    (dataset,) = build_datasets(cfg, [registered])
    assert dataset.name == registered
    assert labels(dataset.train) == [(7, 1, 0), (3, 0, 0)]  # people by their number, cameras in sorted order
    assert labels(dataset.query) == [(9, 0, 0)] and labels(dataset.gallery) == [(9, 1, 0), (-1, 1, 0)]
    import_file(str(tmp_path / "my_dataset.py"))  # again: nothing is registered twice
    assert pickle.loads(pickle.dumps(DATASET_REGISTRY.get(registered))) is DATASET_REGISTRY.get(registered)
    with pytest.raises(DatasetError, match="nowhere/mine not found; check DATASETS.ROOT"):
        DATASET_REGISTRY.get(registered)(root="nowhere")


def test_five_tuples_with_views_in_words_or_numbers():
    rows = [("a.jpg", 1, 2, "Aerial", 4), ("b.jpg", 1, 3, 1, None), ("c.jpg", 1, 3, "wearable", "x")]
    assert labels(ImageDataset([], rows, rows).query) == [(1, 2, 0), (1, 3, 1), (1, 3, 2)]


def test_images_pass_as_they_are():
    image = PersonImage("a.jpg", 5, 6, 1)
    dataset = ImageDataset([image], [], [], verbose=False)
    assert dataset.train == [image] and dataset.get_num_pids([image]) == dataset.get_num_cams([("b", 1, 2)]) == 1


@pytest.mark.parametrize(
    "row",
    [
        *(("a.jpg", 1), ("a.jpg", "x", 0), ("a.jpg", 1, 0, "top"), 3, (None, 1, 0)),
        # What int() would take for 7, 11, 1 or -1.
        *(("a.jpg", person, 0) for person in ("007", "1_1", "+1", "٧", "-01", " 7", 7.5, b"7", 2**63, None)),
        ("a.jpg", 1, "1_1"),
    ],
)
def test_other_entries_are_shown(row):
    with pytest.raises(DatasetError, match="ImageDataset: query holds .*expected .path, person, camera"):
        _ = ImageDataset([], [row], []).query


def test_unknown_arguments_are_told(caplog):
    ImageDataset([], [], [], num_classes=3, verbose=False)
    assert "ImageDataset does not read num_classes" in caplog.text


def test_lists_may_be_set_before_the_base_class_is_called():
    class Early(ImageDataset):
        def __init__(self):
            self.train = [("a.jpg", "early_4", "c1"), ("b.jpg", "early_4", "c2")]
            assert len(self.train) == 2
            super().__init__(self.train, [("q.jpg", 1, 0)], lambda: [("g.jpg", 1, 1)])

    dataset = Early()
    assert labels(dataset.train) == [(4, 0, 0), (4, 1, 0)] and len(dataset) == 2
    assert labels(dataset.gallery) == [(1, 1, 0)]


def people_trained_on(dataset, **options):
    return [who for _, who in dataset.training_people(**options)]


def test_combining_keeps_people_apart_and_leaves_junk_out():
    tests = [("q.jpg", 7, 0), ("j.jpg", 0, 0), ("n.jpg", -1, 0)], [("g.jpg", 9, 1)]

    class WithJunk(ImageDataset):
        _junk_pids = [0, -1]

    numbered = WithJunk([("a.jpg", "mine_7", "c1"), ("b.jpg", "mine_3", "c1")], *tests)
    assert people_trained_on(numbered) == [7, 3]
    assert people_trained_on(numbered, combineall=True) == [7, 3, 7, 9]  # 7 is 7 wherever it stands
    # Names without a number mean nothing in query and gallery.
    named = WithJunk([("a.jpg", "bob", "c1"), ("b.jpg", "eve", "c1")], *tests, combineall=True)
    assert people_trained_on(named) == [("train", 0), ("train", 1), 7, 0, 9]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nothing_of_that_name", "line 1: ModuleNotFoundError"),
        ("x = 1\n\nraise ValueError('no')", "line 3: ValueError: no"),
        ("x = (", "line 1: SyntaxError"),
        ("raise SystemExit(0)", "line 1: SystemExit: 0"),
    ],
)
def test_a_file_that_fails_names_its_line(tmp_path, text, said):
    (tmp_path / "broken.py").write_text(text)
    with pytest.raises(UserCodeError, match=f"importing .*broken.py failed, {said}"):
        import_file(str(tmp_path / "broken.py"))
    with pytest.raises(UserCodeError, match="no file .*absent.py"):
        import_file(str(tmp_path / "absent.py"))


def test_whole_numbers_of_any_type():
    rows = [("a.jpg", np.int32(7), 7.0, np.int64(1)), (Path("b.jpg"), "-1", "12", torch.tensor(1))]
    images = ImageDataset([], rows, []).query
    assert labels(images) == [(7, 7, 1), (-1, 12, 1)] and images[1].path == "b.jpg"
    assert all(type(value) is int for image in images for value in (image.person, image.camera, image.view))


@pytest.mark.parametrize(
    "pair", [("a_7", "b_7"), ("x_07", "x_7"), ("x_1_11", "x_11_1"), ("x_٧", "x_7"), ("x_+1", "x_1")]
)
def test_people_whose_names_differ_are_different(pair):
    dataset = ImageDataset([("a.jpg", pair[0], 0), ("b.jpg", pair[1], 0)], [("q.jpg", 7, 0)], [])
    first, second = dataset.train
    assert {first.person, second.person} == {0, 1}
    assert (dataset.training_person_names[first.person], dataset.training_person_names[second.person]) == pair
    assert len(set(people_trained_on(dataset, combineall=True))) == 3  # nor are they query's person 7


def test_one_prefix_and_different_numbers_are_those_numbers():
    dataset = ImageDataset([("a.jpg", "x_07", "c1"), ("b.jpg", "x_12", "c1"), ("c.jpg", "x_-1", "c0")], [], [])
    assert labels(dataset.train) == [(7, 1, 0), (12, 1, 0), (-1, 0, 0)]
    assert people_trained_on(dataset) == [7, 12] and dataset.training_person_names == {}
    assert dataset.training_camera_names == {0: "c0", 1: "c1"}


@pytest.mark.parametrize("other", [("b.jpg", 0, 0), PersonImage("b.jpg", 0, 0)])
@pytest.mark.parametrize("named", [("a.jpg", "bob", 0), ("a.jpg", 5, "c1")])
def test_names_and_numbers_in_one_list_are_refused(named, other):
    with pytest.raises(DatasetError, match=r"train has (people|cameras) that are named .'(bob|c1)'. and others .*0"):
        _ = ImageDataset([named, other], [], []).train
