"""MODEL.BACKBONE.PRETRAIN_PATH auto: where published weights are found, and what is said if they are not."""

import logging
from types import SimpleNamespace

import pytest
import torch

from fastreid.config import get_cfg
from fastreid.modeling.backbones import build_backbone, local_weights, with_local_weights


@pytest.fixture(autouse=True)
def _empty_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch_hub"))
    monkeypatch.setattr(local_weights.metadata, "distributions", list)


def config(*words):
    cfg = get_cfg()
    cfg.merge_from_list([
        *("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.BACKBONE.DEPTH", "18x"),
        *("MODEL.BACKBONE.PRETRAIN", "True", "MODEL.BACKBONE.PRETRAIN_PATH", "auto", *words),
    ])  # fmt: skip
    return cfg


def found(*words: str) -> str:
    cfg = with_local_weights(config(*words))
    return cfg.MODEL.BACKBONE.PRETRAIN_PATH if cfg.MODEL.BACKBONE.PRETRAIN else ""


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return str(path)


def test_places_in_their_order(tmp_path, monkeypatch):
    wheel = touch(tmp_path / "site-packages/weights/resnet18-f37072fd.pth")
    inside = SimpleNamespace(name="resnet18-f37072fd.pth", locate=lambda: wheel)
    monkeypatch.setattr(local_weights.metadata, "distributions", lambda: [SimpleNamespace(files=[inside])])
    assert found() == wheel
    hub = touch(tmp_path / "hub/models--timm--resnet18.tv_in1k/snapshots/abc/model.safetensors")
    assert found() == hub
    cache = touch(tmp_path / "torch_hub/checkpoints/resnet18-5c106cde.pth")
    assert found() == cache
    own = touch(tmp_path / "pretrained/resnet18.safetensors")
    assert found() == own


@pytest.mark.parametrize(
    "name", ["resnet18_ibn_a-2f571257.pth", "resnet18d-1.pth", "resnet18-notes.txt", "resnet50.pth"]
)
def test_files_of_other_networks_are_not_taken(tmp_path, name):
    touch(tmp_path / "pretrained" / name)
    assert found() == ""


def test_other_kinds_of_the_network_have_other_files(tmp_path):
    touch(tmp_path / "pretrained/resnet18-f37072fd.pth")
    assert found("MODEL.BACKBONE.WITH_IBN", "True") == ""
    assert found("MODEL.BACKBONE.DEPTH", "50x") == ""


def test_models_of_timm_and_the_names_of_packages(tmp_path):
    timm = ("MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.BACKBONE.TIMM_NAME", "tf_efficientnet_lite0.in1k")
    lite = touch(tmp_path / "pretrained/efficientnet-lite0-57934424.pth")
    assert found(*timm) == lite
    own = touch(tmp_path / "pretrained/tf_efficientnet_lite0.pth")
    assert found(*timm) == own


def test_without_weights_it_starts_from_random_ones_and_says_so(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        build_backbone(config())
    assert "no ImageNet weights are on this machine" in caplog.text and "resnet18*.pth" in caplog.text
    assert str(tmp_path / "pretrained") in caplog.text


def test_found_weights_are_loaded(tmp_path):
    (tmp_path / "pretrained").mkdir()
    first = build_backbone(config("MODEL.BACKBONE.PRETRAIN", "False"))
    torch.save(first.state_dict(), tmp_path / "pretrained/resnet18-0.pth")
    second = build_backbone(config())
    assert torch.equal(first.layer1[0].conv1.weight, second.layer1[0].conv1.weight)


def test_other_paths_are_left_alone():
    cfg = config("MODEL.BACKBONE.PRETRAIN_PATH", "pretrained/mine.pth")
    assert with_local_weights(cfg) is cfg
