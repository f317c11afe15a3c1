"""fast-reid's heads: what they give, under which names, and what they refuse."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastreid.config import ConfigError, configurable, get_cfg
from fastreid.modeling.heads import REID_HEADS_REGISTRY, ClasHead, EmbeddingHead, build_heads

FEAT, CLASSES = 6, 5


def head_of(**keys):
    torch.manual_seed(0)
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.BACKBONE.FEAT_DIM", FEAT, "MODEL.HEADS.NUM_CLASSES", CLASSES])
    cfg.merge_from_list([word for key, value in keys.items() for word in (f"MODEL.HEADS.{key}", value)])
    return build_heads(cfg)


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, FEAT, 3, 2, generator=generator), torch.arange(8) % CLASSES


def test_without_neck_all_outputs_are_closed_forms():
    head, (maps, people) = head_of(SCALE=2), batch()
    pooled = maps.mean((2, 3))
    outputs = head.train()(maps, people)
    assert set(outputs) == {"cls_outputs", "pred_class_logits", "features"}
    torch.testing.assert_close(outputs["features"], pooled)
    torch.testing.assert_close(outputs["cls_outputs"], 2 * pooled @ head.weight.T)
    torch.testing.assert_close(outputs["pred_class_logits"], outputs["cls_outputs"])
    torch.testing.assert_close(head.eval()(maps), pooled)


@pytest.mark.parametrize(("neck_feat", "is_after"), [("before", False), ("after", True)])
def test_the_neck_is_for_retrieval_and_the_losses_see_what_neck_feat_says(neck_feat, is_after):
    head, (maps, people) = head_of(WITH_BNNECK=True, NECK_FEAT=neck_feat), batch()
    pooled = maps.mean((2, 3))
    normed = (pooled - pooled.mean(0)) / (pooled.var(0, unbiased=False) + 1e-5).sqrt()
    outputs = head.train()(maps, people)
    torch.testing.assert_close(outputs["features"], normed if is_after else pooled, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs["cls_outputs"], normed @ head.weight.T, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        head.bottleneck[0].running_mean.fill_(1.0)
        head.bottleneck[0].running_var.fill_(4.0)
    torch.testing.assert_close(head.eval()(maps), (pooled - 1) / (4 + 1e-5) ** 0.5)
    assert not head.bottleneck[0].bias.requires_grad


def test_margins_are_on_cosines_and_only_on_what_cross_entropy_sees():
    head, (maps, people) = head_of(CLS_LAYER="CosSoftmax", SCALE=16, MARGIN=0.3), batch()
    cosines = F.normalize(maps.mean((2, 3))) @ F.normalize(head.weight).T
    outputs = head.train()(maps, people)
    torch.testing.assert_close(outputs["pred_class_logits"], 16 * cosines)
    expected = 16 * (cosines - 0.3 * F.one_hot(people, CLASSES))
    torch.testing.assert_close(outputs["cls_outputs"], expected)


def test_names_are_fast_reids():
    norm = {f"{n}": None for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
    assert set(head_of().state_dict()) == {"weight"}
    assert set(head_of(WITH_BNNECK=True).state_dict()) == {"weight", *(f"bottleneck.0.{n}" for n in norm)}
    full = head_of(WITH_BNNECK=True, EMBEDDING_DIM=4, POOL_LAYER="GeneralizedMeanPoolingP")
    embedded = {"weight", "pool_layer.p", "bottleneck.0.weight", *(f"bottleneck.1.{n}" for n in norm)}
    assert set(full.state_dict()) == embedded
    assert full.weight.shape == (CLASSES, 4) and full.bottleneck[0].weight.shape == (4, FEAT, 1, 1)


def test_everything_has_a_gradient_but_the_frozen_bias():
    head, (maps, people) = head_of(WITH_BNNECK=True, EMBEDDING_DIM=4, POOL_LAYER="GeneralizedMeanPoolingP"), batch()
    outputs = head.train()(maps.abs(), people)
    F.cross_entropy(outputs["cls_outputs"], people).backward()
    assert {name for name, p in head.named_parameters() if p.grad is None} == {"bottleneck.1.bias"}


def test_autocast_does_not_round():
    head, (maps, people) = head_of(WITH_BNNECK=True, POOL_LAYER="GeneralizedMeanPooling").train(), batch()
    exact = head(maps, people)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = head(maps, people)
        assert head(maps.bfloat16(), people)["cls_outputs"].dtype == torch.float32
    assert all(torch.equal(outputs[name], exact[name]) for name in exact)


@pytest.mark.parametrize("name", ["EmbeddingHead", "ClasHead", "AttrHead"])
def test_a_head_in_half_precision_gives_float32(name):
    head = head_of(NAME=name, WITH_BNNECK=True, EMBEDDING_DIM=4, POOL_LAYER="GeneralizedMeanPoolingP").eval()
    maps = batch()[0].abs()
    exact = head(maps)
    half = head.half()(maps.half())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, atol=0.01, rtol=0.01)


def test_a_classification_head_gives_scaled_logits():
    head, (maps, people) = (
        head_of(NAME="ClasHead", CLS_LAYER="ArcSoftmax", SCALE=4, MARGIN=0.2, WITH_BNNECK=True),
        batch(),
    )
    assert isinstance(head, ClasHead)
    logits = head.eval()(maps)
    cosines = F.normalize(head.bottleneck(maps.mean((2, 3), keepdim=True))[..., 0, 0]) @ F.normalize(head.weight).T
    torch.testing.assert_close(logits, 4 * cosines)
    assert head.train()(maps, people)["features"].shape == (8, FEAT)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"NECK_FEAT": "befor"}, "did you mean 'before'"),
        ({"POOL_LAYER": "GeM"}, "unknown pooling .* Legal: Identity"),
        ({"CLS_LAYER": "Arcface"}, "unknown classifier .* Legal: Linear"),
        ({"NORM": "LN", "WITH_BNNECK": True}, "unknown normalisation .* Legal: BN"),
        ({"NAME": "EmbedingHead"}, "did you mean 'EmbeddingHead'"),
    ],
)
def test_wrong_settings_are_explained(keys, message):
    with pytest.raises(KeyError, match=message):  # ConfigError and RegistryError are both one
        head_of(**keys)
    assert issubclass(ConfigError, KeyError)


def test_without_classes_it_can_only_be_evaluated():
    head, (maps, people) = head_of(NUM_CLASSES=0), batch()
    assert head.eval()(maps).shape == (8, FEAT)
    with pytest.raises(ConfigError, match="at least one class to train"):
        head.train()(maps, people)


@pytest.mark.parametrize("name", ["EmbeddingHead", "ClasHead"])
@pytest.mark.parametrize("neck_feat", ["before", "after"])
@pytest.mark.parametrize("seen", [{"cls_outputs"}, {"features"}, {"cls_outputs", "features"}])
def test_what_no_loss_reaches_asks_for_no_gradient(name, neck_feat, seen):
    head, (maps, people) = head_of(NAME=name, NECK_FEAT=neck_feat, WITH_BNNECK=True, EMBEDDING_DIM=4), batch()
    head.freeze_unused(seen)
    outputs = head.train()(maps.requires_grad_(), people)
    sum(outputs[output].square().sum() for output in seen).backward()
    for parameter_name, parameter in head.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), parameter_name


def test_a_margin_that_does_nothing_is_told(caplog):
    head_of(MARGIN=0.3)
    assert "Linear has no margin: MODEL.HEADS.MARGIN 0.3 does nothing" in caplog.text


class OwnHead(EmbeddingHead):
    """As projects on fast-reid derive theirs: their own argument, from their own reading of the config."""

    @configurable
    def __init__(self, *, temperature, **keys):
        super().__init__(**keys)
        self.temperature = temperature

    @classmethod
    def from_config(cls, cfg):
        return {**super().from_config(cfg), "temperature": 0.5}

    def forward(self, features, targets=None):
        outputs = super().forward(features, targets)
        return outputs if self.training else outputs / self.temperature


class BareHead(nn.Module):
    """A head that takes the config and nothing else."""

    def __init__(self, cfg):
        super().__init__()
        self.num_classes = cfg.MODEL.HEADS.NUM_CLASSES


def test_heads_of_others_are_built_by_name(monkeypatch):
    monkeypatch.setattr(REID_HEADS_REGISTRY, "_objects", dict(REID_HEADS_REGISTRY._objects))
    REID_HEADS_REGISTRY.register()(OwnHead)
    REID_HEADS_REGISTRY.register(BareHead)
    head, (maps, _) = head_of(NAME="OwnHead").eval(), batch()
    torch.testing.assert_close(head(maps), maps.mean((2, 3)) / 0.5)
    assert head_of(NAME="BareHead").num_classes == CLASSES
