"""Cluster Contrast: its loss, its memory, and which checkpoints it starts from and is evaluated by."""

import logging

import pytest
import torch
from torch.nn import functional as F

from fastreid.config import ConfigError, check_ranges, get_cfg
from fastreid.config.unread import log_unread
from fastreid.labeling.centroids import centroids
from fastreid.labeling.relabel import Labelling
from fastreid.modeling import build_model
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from fastreid.modeling.model import evaluation_config_of, needs_labels_of
from fastreid.utils.weights import load_weights, own_state_dict
from tests.methods.cluster_contrast.conftest import KEYS


def cfg_of(*options):
    cfg = get_cfg()
    cfg.merge_from_list([*KEYS, *options])
    return cfg


def model_of(*options):
    torch.manual_seed(0)
    return build_model(cfg_of(*options))


def labelled(model, clusters=3):
    """Give a model the clusters of random features."""
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(4 * clusters, model.memory.class_prototypes.shape[1], generator=generator)
    labels = torch.arange(4 * clusters) // 4
    model.take(Labelling(torch.arange(len(labels)), features, labels, labels, len(labels), clusters))
    return centroids(features, labels)


def batch(size=6):
    generator = torch.Generator().manual_seed(1)
    return {"images": torch.rand(size, 3, 32, 32, generator=generator) * 255, "targets": torch.arange(size) % 3}


def test_the_loss_is_over_the_clusters_there_are():
    model = model_of("MODEL.LOSSES.CLUSTER.TEMPERATURE", 0.1)
    centres = labelled(model)
    losses = model(batch())
    model = model_of()
    _, neck = model.heads.embed(model.backbone(model.preprocess_image(batch())))
    wanted = F.cross_entropy(F.normalize(neck) @ centres.T / 0.1, batch()["targets"])
    assert list(losses) == ["loss_cluster"]
    torch.testing.assert_close(losses["loss_cluster"], wanted)


@pytest.mark.parametrize("update", ["all", "hard"])
def test_a_step_moves_the_prototypes_of_its_clusters(update):
    model = model_of("MODEL.LOSSES.CLUSTER.UPDATE", update, "MODEL.LOSSES.CLUSTER.MOMENTUM", 0.3)
    centres = labelled(model, clusters=5)
    model(batch())["loss_cluster"].backward()
    after = model.memory.prototypes
    assert (after[:3] != centres[:3]).any(dim=1).all() and torch.equal(after[3:], centres[3:])
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_each_clustering_replaces_the_memory():
    model = model_of()
    labelled(model, clusters=9)
    centres = labelled(model, clusters=2)
    assert torch.equal(model.memory.prototypes, centres) and model.memory.class_prototypes[2:].eq(0).all()


def test_features_have_unit_length_and_need_no_memory():
    model = model_of().eval()
    features = model(batch())
    torch.testing.assert_close(features.norm(dim=1), torch.ones(6))
    assert torch.equal(model(batch()["images"]), features)


def test_it_evaluates_without_memory(tmp_path):
    trained = model_of().eval()
    torch.save({"model": own_state_dict(trained)}, tmp_path / "trained.pth")
    cfg = evaluation_config_of(cfg_of())
    check_ranges(cfg)
    model = build_model(cfg).eval()
    assert model.memory is None
    report = load_weights(model, tmp_path / "trained.pth", to_evaluate=True)
    assert report.clean and torch.equal(model(batch()), trained(batch()))
    with pytest.raises(ConfigError, match="MODEL.HEADS.MAX_CLUSTERS is 0"):
        model.train()(batch())


def test_a_baseline_checkpoint_is_the_start_of_an_adaptation(tmp_path):
    source = model_of("MODEL.META_ARCHITECTURE", "Baseline", "MODEL.HEADS.NUM_CLASSES", 7)
    source(batch())  # moves the running statistics of its neck
    torch.save({"model": own_state_dict(source)}, tmp_path / "source.pth")
    model = model_of("MODEL.SEED", 5).eval()
    report = load_weights(model, tmp_path / "source.pth", to_train=True)
    assert not report.mismatched and not report.unexpected and len(report.dropped_classifiers) == 1
    torch.testing.assert_close(model(batch()), F.normalize(source.eval()(batch())))


def test_people_are_not_needed_and_the_head_must_have_a_neck_of_its_own(monkeypatch):
    assert not needs_labels_of(cfg_of())
    assert model_of("MODEL.HEADS.NUM_CLASSES", 100).heads.weight.shape[0] == 0
    monkeypatch.setitem(REID_HEADS_REGISTRY._objects, "Other", lambda cfg: torch.nn.Identity())
    with pytest.raises(ConfigError, match="the neck of an EmbeddingHead, got Other"):
        model_of("MODEL.HEADS.NAME", "Other")


@pytest.mark.parametrize(
    ("options", "unread"),
    [
        (["CLUSTER.EPS", 0.3, "MODEL.HEADS.MAX_CLUSTERS", 50, "MODEL.LOSSES.CLUSTER.MOMENTUM", 0.5], []),
        (["CLUSTER.REINIT_CLASSIFIER", False], ["CLUSTER.REINIT_CLASSIFIER"]),
        (["CLUSTER.METHOD", "hdbscan", "CLUSTER.EPS", 0.3], ["CLUSTER.EPS"]),
        (["MODEL.META_ARCHITECTURE", "PISL", "CLUSTER.REINIT_CLASSIFIER", False], []),
        (["MODEL.META_ARCHITECTURE", "PISL", "MODEL.LOSSES.CLUSTER.MOMENTUM", 0.5], ["MODEL.LOSSES.CLUSTER.MOMENTUM"]),
        (["MODEL.META_ARCHITECTURE", "Baseline", "CLUSTER.K1", 7], ["CLUSTER.K1"]),
    ],
)
def test_keys_that_are_not_read_are_named(options, unread, caplog):
    with caplog.at_level(logging.WARNING):
        log_unread(cfg_of(*options))
    assert [key for key in options[::2] if f"{key} (" in caplog.text] == unread
