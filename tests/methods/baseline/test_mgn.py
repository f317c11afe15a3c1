"""MGN: fast-reid's parts and names, what each head sees, and how losses are averaged."""

import math

import pytest
import torch

from fastreid.config import ConfigError, get_cfg
from fastreid.methods.baseline.mgn import HEADS
from fastreid.modeling import build_model
from fastreid.modeling.losses import triplet_loss


def model_of(*options):
    torch.manual_seed(0)
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.META_ARCHITECTURE", "MGN", "MODEL.BACKBONE.DEPTH", "18x", "MODEL.DEVICE", "cpu"])
    cfg.merge_from_list(["MODEL.HEADS.EMBEDDING_DIM", 8, "MODEL.HEADS.WITH_BNNECK", True])
    cfg.merge_from_list(["MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLoss"), *options])
    return build_model(cfg, num_classes=4)


def batch():
    images = torch.rand(8, 3, 96, 48, generator=torch.Generator().manual_seed(1)) * 255
    return {"images": images, "targets": torch.arange(8) // 2}


def test_names_are_fast_reids():
    names = set(model_of("MODEL.BACKBONE.WITH_IBN", True).state_dict())
    assert {name.partition(".")[0] for name in names} == {"backbone", "b1", "b2", "b3", *(f"{h}_head" for h in HEADS)}
    assert HEADS == ("b1", "b2", "b3", "b21", "b22", "b31", "b32", "b33")
    stem = {"backbone.0.weight", "backbone.1.running_mean", "backbone.4.0.bn1.IN.weight", "backbone.6.conv1.weight"}
    parts = {
        "b1.0.0.conv1.weight",
        "b2.1.0.downsample.0.weight",
        "b33_head.bottleneck.1.running_var",
        "b21_head.weight",
    }
    assert stem | parts <= names


def test_branches_start_alike_and_are_apart():
    model = model_of()
    first, second = model.b1.state_dict(), model.b3.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not {p.data_ptr() for p in model.b1.parameters()} & {p.data_ptr() for p in model.b3.parameters()}
    coarse = model_of("MODEL.BACKBONE.LAST_STRIDE", 2)
    shared = torch.randn(2, 256, 6, 3)
    assert coarse.b1(shared).shape[2:] == (3, 2) and coarse.b2(shared).shape[2:] == (6, 3)


def test_a_swin_transformer_is_cut_after_its_second_stage():
    swin = ["MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.BACKBONE.DEPTH", "50x"]
    swin += ["MODEL.BACKBONE.TIMM_NAME", "swin_tiny_patch4_window7_224", "MODEL.HEADS.POOL_LAYER", "GlobalAvgPool"]
    cfg = get_cfg()
    cfg.merge_from_list([*swin, "INPUT.SIZE_TRAIN", [96, 48], "INPUT.SIZE_TEST", [96, 48], "MODEL.DEVICE", "cpu"])
    torch.manual_seed(0)
    whole = build_model(cfg, num_classes=4).eval()
    model = model_of(*swin, "INPUT.SIZE_TRAIN", [96, 48], "INPUT.SIZE_TEST", [96, 48]).eval()
    images = model.preprocess_image(batch())
    with torch.no_grad():
        maps = model.b2(model.backbone(images))
        assert maps.shape == (8, 768, 3, 2)
        network = whole.backbone.model
        torch.testing.assert_close(maps, network.forward_features(images).permute(0, 3, 1, 2))
        assert model(batch()).shape == (8, 64)


def test_each_head_sees_its_stripe_and_features_stand_side_by_side():
    model = model_of().eval()
    seen = {}
    for name in HEADS:
        head = getattr(model, f"{name}_head")
        head.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: (inputs[0], output)}))
    feature = model(batch())
    assert feature.shape == (8, 64)
    assert torch.equal(feature, torch.cat([seen[name][1] for name in HEADS], dim=1))
    for whole, stripes in (("b2", ("b21", "b22")), ("b3", ("b31", "b32", "b33"))):
        assert torch.equal(seen[whole][0], torch.cat([seen[name][0] for name in stripes], dim=2))
        assert len({seen[name][0].shape for name in stripes}) == 1


def test_losses_are_means_over_eight_heads_and_five_features():
    model = model_of("MODEL.HEADS.NECK_FEAT", "after")
    with torch.no_grad():
        for name in HEADS:
            getattr(model, f"{name}_head").weight.zero_()
    outputs = {}
    for name in HEADS:
        head = getattr(model, f"{name}_head")
        head.register_forward_hook(lambda _, inputs, output, name=name: outputs.update({name: output["features"]}))
    losses = model.train()(batch())
    assert list(losses)[:8] == [f"loss_cls_{name}" for name in HEADS]
    assert list(losses)[8:] == [f"loss_triplet_{name}" for name in ("b1", "b2", "b3", "b22", "b33")]
    assert sum(losses[f"loss_cls_{name}"] for name in HEADS).item() == pytest.approx(math.log(4), rel=1e-4)
    thirds = torch.cat([outputs[name] for name in ("b31", "b32", "b33")], dim=1)
    expected = triplet_loss(thirds, batch()["targets"], 0.3, False, False) / 5
    torch.testing.assert_close(losses["loss_triplet_b33"], expected)


def test_images_that_are_too_low_for_three_stripes_are_refused():
    with pytest.raises(ConfigError, match="a map of height 4 cannot be cut into 3 stripes"):
        model_of().eval()(torch.zeros(1, 3, 64, 32))


def test_every_parameter_that_trains_gets_a_gradient():
    model = model_of().train()
    sum(model(batch()).values()).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.BACKBONE.WITH_NL", True], "cuts its network into branches, so"),
        (
            ["MODEL.BACKBONE.NAME", "build_effnet_backbone", "MODEL.BACKBONE.DEPTH", "b0"],
            "build_effnet_backbone gives none",
        ),
        (["MODEL.LOSSES.NAME", ("CenterLoss",)], "eight features per image: CenterLoss"),
    ],
)
def test_what_does_not_go_together_is_explained(options, message):
    with pytest.raises(KeyError, match=message):
        model_of(*options)


def test_without_any_loss_there_is_nothing_to_train_with():
    with pytest.raises(ConfigError, match="MODEL.LOSSES.NAME is empty"):
        model_of("MODEL.LOSSES.NAME", ())
