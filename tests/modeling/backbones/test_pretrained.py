"""Pretrained backbones of other programs fill the backbone, whatever wrapped it."""

import logging

import pytest
import timm
import torch
from torch.nn.functional import interpolate

from fastreid.modeling.backbones.pretrained import load_pretrained
from fastreid.modeling.backbones.timm_models import TimmBackbone, _fit_names
from fastreid.modeling.backbones.vit import ViT, fit_vit_names
from fastreid.utils.checkpoint_file import WeightsError


def small_vit(size=(32, 16)):
    return ViT(img_size=size, embed_dim=24, depth=2, num_heads=2)


@pytest.mark.parametrize(
    ("place", "prefix"),
    [
        ("teacher", "backbone."),  # DINO, iBOT, PersonViT
        ("teacher", "module.backbone."),
        ("student", "module.backbone."),
        ("state_dict", "model."),
        ("state_dict", "model.backbone."),
        ("state_dict", "module.encoder."),
        ("model_state_dict", ""),
        ("model", "vit."),
        ("model_ema", "net."),
        ("state_dict", "_orig_mod.base."),
    ],
)
def test_a_vit_of_another_program(tmp_path, caplog, place, prefix):
    caplog.set_level(logging.INFO, logger="fastreid")
    torch.manual_seed(0)
    source, target = small_vit(), small_vit((64, 32))
    state = {f"{prefix}{name}": value for name, value in source.state_dict().items()}
    state |= {f"{prefix.removesuffix('backbone.')}head.mlp.0.weight": torch.ones(3, 3)}
    torch.save({place: state, "epoch": 99, "args": None}, tmp_path / "x.pth")
    assert load_pretrained(target, str(tmp_path / "x.pth"), adapt=fit_vit_names, min_coverage=0.98) == 1.0
    assert torch.equal(target.blocks[1].mlp.fc1.weight, source.blocks[1].mlp.fc1.weight)


@pytest.mark.parametrize(
    "name", ["vit_small_patch14_reg4_dinov2", "vit_small_patch14_dinov2", "eva02_tiny_patch14_224"]
)
def test_position_tables_with_and_without_rows_of_other_tokens_are_resized(name):
    shape = {"patch_size": 16, "depth": 1, "embed_dim": 48, "num_heads": 2, "num_classes": 0}
    source, target = (timm.create_model(name, img_size=size, **shape) for size in ((64, 64), (128, 64)))
    state = _fit_names(target, source.state_dict())
    others = 0 if source.no_embed_class else source.num_prefix_tokens
    grid = source.pos_embed[:, others:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    resized = interpolate(grid, (8, 4), mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)
    torch.testing.assert_close(state["pos_embed"], torch.cat([source.pos_embed[:, :others], resized], dim=1))
    target.load_state_dict(state)


def test_a_timm_model_in_lightnings_wrapper(tmp_path):
    source, target = (TimmBackbone("resnet18", (32, 16)) for _ in range(2))
    state = {f"student.net.{name}": value for name, value in source.model.state_dict().items()}
    torch.save({"state_dict": state, "hyper_parameters": {"lr": 1}}, tmp_path / "x.ckpt")
    load_pretrained(target.model, str(tmp_path / "x.ckpt"), adapt=_fit_names, min_coverage=0.98)
    assert torch.equal(target.model.conv1.weight, source.model.conv1.weight)


def test_another_model_is_still_refused(tmp_path):
    torch.save({"teacher": {"backbone.conv1.weight": torch.ones(64, 3, 7, 7)}}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="only 0.0% of the backbone would be pretrained"):
        load_pretrained(small_vit(), str(tmp_path / "x.pth"), adapt=fit_vit_names, min_coverage=0.98)


def test_numbers_that_are_no_weights_are_named(tmp_path, caplog):
    state = small_vit().state_dict()
    torch.save(state | {"norm.bias": torch.full((24,), torch.nan)}, tmp_path / "x.pth")
    load_pretrained(small_vit(), str(tmp_path / "x.pth"), adapt=fit_vit_names, min_coverage=0.98)
    assert "norm.bias" in caplog.text and "NaN or infinite" in caplog.text
    for wrong in (torch.zeros(24, dtype=torch.int8), torch.zeros(24).to_sparse(), torch.zeros(24, dtype=torch.cfloat)):
        torch.save(state | {"norm.bias": wrong}, tmp_path / "x.pth")
        with pytest.raises(WeightsError, match=r"norm\.bias"):
            load_pretrained(small_vit(), str(tmp_path / "x.pth"), adapt=fit_vit_names, min_coverage=0.98)
