"""Backbones of fast-reid that are models of timm: names of fast-reid, of timm and of earlier versions."""

import copy

import pytest
import timm
import torch

from fastreid.config import get_cfg
from fastreid.modeling.backbones import build_backbone
from fastreid.modeling.backbones.families import FAMILIES, RenamedBackbone
from fastreid.modeling.model import build_model
from fastreid.utils.checkpoint import Checkpointer
from fastreid.utils.weights import WeightsError

IMAGES = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))
SMALLEST = {
    "build_resnest_backbone": "50x", "build_mobilenetv2_backbone": "0.35x", "build_repvgg_backbone": "A0",
    "build_regnet_backbone": "200y", "build_effnet_backbone": "b0",
}  # fmt: skip


def config(name, **keys):
    cfg = get_cfg()
    keys = {"NAME": name, "DEPTH": SMALLEST[name]} | keys
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.HEADS.NUM_CLASSES", 3, "INPUT.SIZE_TRAIN", [64, 32]])
    cfg.merge_from_list([word for key, value in keys.items() for word in (f"MODEL.BACKBONE.{key}", value)])
    return cfg


def test_all_families_with_known_names_are_tried():
    assert {name for name, family in FAMILIES.items() if family.rename is not None} == SMALLEST.keys()


@pytest.mark.parametrize("name", SMALLEST)
def test_published_files_of_timm_fill_all_of_it(name, tmp_path, caplog):
    stock = timm.create_model(FAMILIES[name].models[SMALLEST[name]], pretrained=False, global_pool="", num_classes=0)
    torch.save(stock.state_dict(), tmp_path / "timm.pth")
    keys = {"PRETRAIN": True, "PRETRAIN_PATH": str(tmp_path / "timm.pth"), "LAST_STRIDE": 2}
    with caplog.at_level("INFO"):
        model = build_backbone(config(name, **keys)).eval()
    assert "100.0% of the backbone's values; missing: none" in caplog.text
    torch.testing.assert_close(model(IMAGES), stock.eval()(IMAGES))


def earlier_names(model):
    """The state of a model with the names that this library had before: timm's, below `backbone.model`."""
    names = {own: timms for timms, own in model.backbone._names.items()}

    def earlier(name):
        path, _, last = name.removeprefix("backbone.").rpartition(".")
        return f"backbone.model.{names[path]}.{last}" if path in names else name

    return {earlier(name): value for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", SMALLEST)
def test_checkpoints_of_earlier_versions_are_loaded_and_resumed(name, tmp_path, caplog):
    torch.manual_seed(0)
    trained, other = build_model(config(name)), build_model(config(name))
    state = earlier_names(trained)
    assert "backbone.model.bn1.weight" in state or "backbone.model.stem.conv.weight" in state or "repvgg" in name
    torch.save({"model": state, "rng": [], "epoch": 0}, tmp_path / "old.pth")
    with caplog.at_level("INFO"):
        assert Checkpointer(other.eval()).load(tmp_path / "old.pth").clean
    assert "names of an earlier version" in caplog.text
    assert ("was trained by an earlier version" in caplog.text) == bool(FAMILIES[name].changes)
    assert torch.equal(other(IMAGES), trained.eval()(IMAGES))
    resumed = build_model(config(name))
    Checkpointer(resumed, tmp_path).resume(tmp_path / "old.pth")
    assert torch.equal(resumed.eval()(IMAGES), trained(IMAGES))


def test_a_model_in_eval_mode_must_be_filled(tmp_path):
    """A neck that stayed at random cost users of fast-reid ten points of mAP."""
    cfg = config("build_effnet_backbone")
    torch.save(build_model(cfg).state_dict(), tmp_path / "no_neck.pth")
    cfg.merge_from_list(["MODEL.HEADS.WITH_BNNECK", True])
    assert Checkpointer(build_model(cfg)).load(tmp_path / "no_neck.pth").missing
    with pytest.raises(WeightsError, match="it lacks heads.bottleneck.0.weight"):
        Checkpointer(build_model(cfg).eval()).load(tmp_path / "no_neck.pth")


def test_a_copy_has_layers_of_its_own():
    model = build_backbone(config("build_regnet_backbone"))
    assert isinstance(model, RenamedBackbone)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.stem.conv.weight.zero_()
    assert other.eval()(IMAGES).std() != model.eval()(IMAGES).std()
    assert not any(module.training for module in model._source[0].modules())
    assert all(module.training for module in model.train()._source[0].modules())


def test_the_last_stage_of_resnest_is_dilated():
    model = build_backbone(config("build_resnest_backbone"))
    assert [block.conv2.conv.dilation for block in model.layer4.children()] == [(1, 1), (2, 2), (2, 2)]
    coarse = build_backbone(config("build_resnest_backbone", LAST_STRIDE=2))
    assert [block.conv2.conv.dilation for block in coarse.layer4.children()] == [(1, 1)] * 3


def test_keys_that_fastreid_ignored_are_named(caplog):
    from fastreid.config.unread import log_unread

    cfg = config("build_mobilenetv2_backbone", WITH_NL=True, LAST_STRIDE=2)
    build_backbone(cfg)
    log_unread(cfg)
    assert "MODEL.BACKBONE.WITH_NL (MODEL.BACKBONE.NAME is build_mobilenetv2_backbone)" in caplog.text
    assert "MODEL.BACKBONE.LAST_STRIDE (MODEL.BACKBONE.NAME is build_mobilenetv2_backbone)" in caplog.text
