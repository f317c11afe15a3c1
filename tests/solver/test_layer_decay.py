"""The earlier a layer, the smaller its learning rate."""

import pytest
import timm
from torch import nn

from fastreid.config import get_cfg
from fastreid.modeling.backbones import ViewPromptViT
from fastreid.solver.layer_decay import layer_factors
from fastreid.solver.optimizer import group_parameters


def with_head(backbone):
    return nn.ModuleDict({"backbone": backbone, "heads": nn.Linear(2, 2)})


class Stages(nn.Sequential):
    """A backbone of somebody's: a stem and two layers."""

    num_layers = 2

    def layer_of(self, name):
        return int(name.split(".")[0])


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: nn.ModuleDict({"person": model})])
def test_the_backbone_says_its_depth(wrap):
    prefix = "person." if wrap(nn.Identity()).__class__ is nn.ModuleDict else ""
    factors = layer_factors(wrap(with_head(Stages(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)))), 0.5)
    expected = {f"{prefix}backbone.{n}.{leaf}": 0.5 ** (3 - n) for n in range(3) for leaf in ("weight", "bias")}
    assert factors == expected


def test_vit_by_blocks():
    vit = timm.create_model("vit_tiny_patch16_224", depth=3, num_classes=0, img_size=(32, 16))
    factors = layer_factors(with_head(ViewPromptViT(vit)), 0.1)
    expected = {
        "view_prompt": 0.1, "vit.cls_token": 1e-4, "vit.pos_embed": 1e-4, "vit.patch_embed.proj.weight": 1e-4,
        "vit.blocks.0.attn.qkv.weight": 1e-3, "vit.blocks.1.norm1.bias": 1e-2, "vit.blocks.2.mlp.fc2.weight": 0.1,
        "vit.norm.weight": 0.1,
    }  # fmt: skip
    for name, factor in expected.items():
        assert factors[f"backbone.{name}"] == pytest.approx(factor), name
    assert set(factors) == {f"backbone.{name}" for name, _ in ViewPromptViT(vit).named_parameters()}


def test_timm_s_resnets_by_stages():
    factors = layer_factors(with_head(timm.create_model("resnet10t", num_classes=0)), 0.5)
    assert factors["backbone.conv1.0.weight"] == 0.5**5
    assert [factors[f"backbone.layer{n}.0.conv1.weight"] for n in range(1, 5)] == [0.5**4, 0.5**3, 0.5**2, 0.5]


def test_factors_reach_the_groups_on_top_of_the_others():
    cfg = get_cfg()
    cfg.SOLVER.BASE_LR, cfg.SOLVER.LAYER_DECAY, cfg.SOLVER.BIAS_LR_FACTOR = 1.0, 0.5, 3.0
    model = with_head(Stages(nn.Linear(2, 2), nn.Linear(2, 2)))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in group_parameters(cfg, model) for p in group["params"]}
    assert rates["backbone.0.weight"] == 0.5**3 and rates["backbone.0.bias"] == 3 * 0.5**3
    assert rates["backbone.1.weight"] == 0.5**2 and rates["heads.weight"] == 1.0


def test_off_by_default():
    assert layer_factors(nn.Linear(2, 2), get_cfg().SOLVER.LAYER_DECAY) == {}


def test_what_cannot_be_is_explained():
    with pytest.raises(ValueError, match=r"above 0 to 1 \(off\), got 1.5"):
        layer_factors(nn.Linear(2, 2), 1.5)
    with pytest.raises(ValueError, match="the backbone Sequential does not say how deep.*layer_of"):
        layer_factors(with_head(nn.Sequential(nn.Linear(2, 2))), 0.9)
    with pytest.raises(ValueError, match="no part of Linear says how deep"):
        layer_factors(nn.Linear(2, 2), 0.9)
    with pytest.raises(ValueError, match="no parameter of the backbone of ModuleDict trains"):
        layer_factors(with_head(Stages(nn.Linear(2, 2)).requires_grad_(False)), 0.9)
