"""The epoch task that gives clusters as labels: what it returns, refuses, passes over and logs."""

import logging
import re

import pytest
import torch
from torch import nn

from fastreid.config import ConfigError, get_cfg
from fastreid.labeling import clustering
from fastreid.labeling.build import build_relabel
from fastreid.labeling.clustering import Clustering
from fastreid.labeling.relabel import Relabel
from fastreid.retrieval import reranking
from fastreid.retrieval.neighbors import nearest_neighbors
from fastreid.structures import PersonImage
from fastreid.utils.registry import RegistryError


class Given(Clustering):
    """Reads clusters off the features, which are as `Images` makes them."""

    def find(self, features, cameras, nearest=None):
        assert features.shape[1] == 40
        largest = features.argmax(dim=1)
        return torch.where(largest < 20, largest, -1)


class Images:
    """A training set of `found` images and one, the second, that cannot be read; `found` can be changed."""

    def __init__(self, found, people=None):
        self.found = torch.tensor(found)
        size = len(found) + 1
        self.images = [PersonImage(f"{i}.jpg", -1, i % 3) for i in range(size)]
        self.people = [-1] * size if people is None else [people[0], 5, *people[1:]]

    def features(self, model):
        """Images of one cluster share a direction. The last column must not be clustered."""
        rows = torch.eye(40)[self.found.where(self.found >= 0, 30)]
        return torch.tensor([0, *range(2, len(rows) + 1)]), torch.cat([rows, 9 * torch.ones(len(rows), 1)], dim=1)


TWO = [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, -1]
FEW = [0] * 4 + [-1] * 5


def relabel(**options):
    chosen = {"keeps_outliers": options.pop("keeps", False), "method": options.pop("method", "dbscan")}
    taken = []
    task = Relabel(
        nn.Identity(),
        Given(min_samples=3, **chosen),
        take=taken.append,
        **{"clustered_dim": 40, "max_clusters": 5, **options},
    )
    return task, taken


def test_clusters_are_the_labels_and_are_taken_by_the_model():
    task, taken = relabel(period=2)
    assert [task.is_due(epoch) for epoch in range(4)] == [True, False, True, False] and task.in_all_processes
    plan = task.run(Images(TWO))
    assert plan.order is None and plan.labels == [0, -1, *TWO[1:]]  # the second image cannot be read
    (labelling,) = taken
    assert labelling.indices.tolist() == [0, *range(2, 12)] and labelling.labels.tolist() == TWO
    assert (labelling.num_images, labelling.num_clusters) == (12, 2)
    assert labelling.features.shape == (11, 41)  # all columns
    assert labelling.cameras.tolist() == [0, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]


def test_kept_outliers_are_clusters_and_are_counted():
    task, taken = relabel(keeps=True, max_clusters=3)
    assert task.run(Images(TWO)).labels[-1] == 2 and taken[0].num_clusters == 3
    with pytest.raises(ConfigError, match="3 clusters are more than .* or set CLUSTER.OUTLIERS drop"):
        relabel(keeps=True, max_clusters=2)[0].run(Images(TWO))


@pytest.mark.parametrize(
    ("found", "options", "message"),
    [
        ([-1] * 8, {}, "before epoch 0: 0 clusters, and 8 of 8 images in none, are too few: a batch needs 1 .SOLVER"),
        (TWO, {"min_clusters": 4}, "1 of 11 images in none, are too few: a batch needs 4 .* lower CLUSTER.EPS"),
        (FEW, {"min_clusters": 4}, r"1 cluster, .* raise CLUSTER.EPS or lower .*_SAMPLES .now CLUSTER.EPS 0.5, .*_SA"),
        ([-1] * 8, {"method": "hdbscan"}, "To get more, lower CLUSTER.MIN_SAMPLES .now CLUSTER.MIN_SAMPLES 3."),
        (TWO, {"max_clusters": 1}, "2 clusters are more than MODEL.HEADS.MAX_CLUSTERS 1: raise it, CLUSTER.EPS or"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_on_stops_a_new_run_and_is_passed_over_later(found, options, message, caplog):
    task, taken = relabel(**options)
    with pytest.raises(ConfigError, match=message):
        task.run(Images(found))
    task, taken = relabel(**options)
    task.load_state_dict({"has_labels": True})  # as a resumed run does
    task.is_due(37)
    assert task.run(Images(found)) is None and taken == []
    assert "epoch 37 keeps the labels of the epoch before it" in caplog.text


def test_it_is_remembered_that_a_run_has_labels():
    task, _ = relabel()
    assert task.state_dict() == {"has_labels": False}
    task.run(Images(TWO))
    assert task.state_dict() == {"has_labels": True}
    assert task.run(Images([-1] * 8)) is None


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            [0] * 3 + [-1] * 30,
            "30 of 33 images are in no cluster; if this does not .* raise CLUSTER.EPS or lower",
        ),
        ([0] * 30 + [1] * 3, "30 of 33 images are in one cluster; if this does not improve .* lower CLUSTER.EPS .now"),
    ],
)
def test_unlikely_labels_are_used_with_a_warning(found, message, caplog):
    assert max(relabel()[0].run(Images(found)).labels) == max(found)
    assert caplog.records[-1].levelno == logging.WARNING
    assert re.search(message, caplog.text)


def test_likely_labels_cause_no_warning_and_are_logged_with_their_purity(caplog):
    with caplog.at_level(logging.INFO):
        relabel()[0].run(Images(TWO, people=[0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1]))
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "2 clusters of 10 images (least 5, median 5, most 5), 1 outliers" in record.getMessage()
    # 6 + 10 of the 20 pairs in clusters are of one person, of 6 + 21 pairs of people.
    assert "pairs F 0.681 (precision 0.800, recall 0.593)" in record.getMessage()


def test_purity_is_not_logged_without_people(caplog):
    with caplog.at_level(logging.INFO):
        relabel()[0].run(Images(TWO))
    assert "2 clusters" in caplog.text and "NMI" not in caplog.text


def test_the_task_of_a_config_has_its_values(tmp_path):
    cfg = get_cfg()
    cfg.merge_from_list(
        ["CLUSTER.METHOD", "hdbscan", "CLUSTER.OUTLIERS", "single", "CLUSTER.CAMERA_AWARE", True, "CLUSTER.PERIOD", 2]
        + ["CLUSTER.K1", 11, "CLUSTER.K2", 3, "CLUSTER.EPS", 0.7, "CLUSTER.MIN_SAMPLES", 5, "MODEL.DEVICE", "cpu"]
        + ["CLUSTER.KNN_BACKEND", "torch", "SOLVER.IMS_PER_BATCH", 64, "DATALOADER.NUM_INSTANCE", 4]
        + ["MODEL.HEADS.MAX_CLUSTERS", 77, "DATALOADER.SAMPLER_TRAIN", "RandomMultipleGallerySampler"]
    )
    task = build_relabel(cfg, nn.Identity(), print)
    assert task._clustering == Clustering("hdbscan", 11, 3, 0.7, 5, True, True, "torch", "cpu")
    assert (task._needs.max_clusters, task._needs.min_clusters, task._period) == (77, 16, 2)
    cfg.merge_from_list(["DATALOADER.SAMPLER_TRAIN", "TrainingSampler"])
    assert build_relabel(cfg, nn.Identity(), print)._needs.min_clusters == 1
    cfg.merge_from_list(["CLUSTER.METHOD", "kmeans"])
    with pytest.raises(RegistryError, match="CLUSTER.METHOD"):
        build_relabel(cfg, nn.Identity(), print)


@pytest.mark.parametrize("is_camera_aware", [False, True])
def test_neighbours_that_the_model_needs_are_searched_once_for_both(monkeypatch, is_camera_aware):
    taken, searched = [], []
    found = nearest_neighbors(torch.eye(40)[torch.tensor(TWO).where(torch.tensor(TWO) >= 0, 30)], 11)
    for module in (clustering, reranking):
        monkeypatch.setattr(module, "nearest_neighbors", lambda *a, **o: searched.append(a[1]) or found)
    how = Clustering(k1=4, k2=3, is_camera_aware=is_camera_aware)
    task = Relabel(nn.Identity(), how, take=taken.append, clustered_dim=40, num_neighbors=7, max_clusters=9)
    task.run(Images(TWO))
    assert searched == ([4] if is_camera_aware else [7])
    assert taken[0].nearest is (None if is_camera_aware else found)


def test_the_export_has_an_extractor_of_its_own(tmp_path):
    asked = []
    images = Images(TWO)
    features = images.features
    images.features = lambda model: asked.append(model) or features(model)
    exported = nn.Identity()
    task, _ = relabel(exported=exported)
    task.run(images)
    task.after_training(images, tmp_path)
    assert len(asked) == 2 and asked[0] is not exported and asked[1] is exported


def test_the_export_is_of_new_clusters_and_can_be_turned_off(tmp_path):
    relabel(exports=False)[0].after_training(Images(TWO), tmp_path)
    assert list(tmp_path.iterdir()) == []
    relabel()[0].after_training(Images(TWO), tmp_path)
    rows = (tmp_path / "clusters.csv").read_text().splitlines()
    assert rows[1] == "0.jpg,0,0.000000" and rows[-1] == "11.jpg,-1,"


@pytest.mark.parametrize(("size", "most", "count"), [(12, 5, 2), (320, 50, 20), (320, 5, 5)])
def test_a_dry_run_has_clusters_of_sixteen_images(size, most, count):
    task, taken = relabel(max_clusters=most)

    class Known:
        images = [PersonImage(f"{i}.jpg", -1, i % 3) for i in range(size)]

        def batches(self, images):
            return images

    task.rehearse(Known(), lambda extractor, batches: (2, 41))
    (labelling,) = taken
    assert labelling.num_clusters == count and labelling.num_images == size
    assert sorted(labelling.labels.unique().tolist()) == list(range(count))
    assert labelling.features.shape == (len(labelling.indices), 41) == (len(labelling.cameras), 41)
