"""Stage 1: its losses, its gradients and its bank."""

import math

import pytest
import torch

from fastreid.config import ConfigError
from fastreid.modeling import build_model
from fastreid.modeling.losses import pairwise_circleloss, pairwise_cosface
from tests.modeling import toys


def model_of(*options):
    torch.manual_seed(0)
    cfg = toys.stage1_cfg()
    cfg.merge_from_list(["MODEL.BACKBONE.DROP_PATH_RATIO", 0.0, *options])
    return build_model(cfg, num_classes=5)


def test_losses_have_their_closed_forms():
    model = model_of("MODEL.LOSSES.CE.VIEW_LAMBDA", 0.5)
    with torch.no_grad():  # heads that know nothing
        model.person.identity_head.classifier.weight.zero_()
        model.person.view_head.classifier.weight.zero_()
    losses = model.train()(toys.batch())
    assert set(losses) == {"loss_identity", "loss_triplet", "loss_view"}
    assert losses["loss_identity"].item() == pytest.approx(math.log(5), rel=1e-5)
    assert losses["loss_view"].item() == pytest.approx(0.5 * math.log(2), rel=1e-5)
    assert losses["loss_triplet"].item() > 0


def test_other_losses_of_features_are_chosen_by_name():
    names = ["CrossEntropyLoss", "CircleLoss", "Cosface"]
    options = ["MODEL.LOSSES.NAME", names, "MODEL.LOSSES.COSFACE.SCALE", 0.5, "MODEL.LOSSES.CIRCLE.GAMMA", 32]
    model, batch = model_of(*options).train(), toys.batch()
    losses = model(batch)
    assert set(losses) == {"loss_identity", "loss_circle", "loss_cosface", "loss_view"}
    features = model.person(batch["images"]).identity
    torch.testing.assert_close(losses["loss_circle"], pairwise_circleloss(features, batch["targets"], 0.25, 32))
    torch.testing.assert_close(losses["loss_cosface"], 0.5 * pairwise_cosface(features, batch["targets"], 0.25, 128))


def test_everything_trains_but_the_frozen_bias_of_the_necks():
    model = model_of().train()
    sum(model(toys.batch()).values()).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert without == {"person.identity_head.bottleneck.bias", "person.view_head.bottleneck.bias"}


def test_training_moves_the_view_centres_to_the_mean_tokens():
    model, batch = model_of().train(), toys.batch()
    model(batch)
    with torch.no_grad():
        tokens = model.person(batch["images"]).view
    expected = torch.stack([tokens[batch["viewids"] == view].mean(dim=0) for view in (0, 1)])
    torch.testing.assert_close(model.person.memory.centres, expected, rtol=1e-3, atol=1e-4)


def test_evaluation_gives_the_neck_feature_of_each_image_alone():
    model, batch = model_of().eval(), toys.batch()
    with torch.inference_mode():
        whole = model(batch)
        part = model({key: value[3:5] for key, value in batch.items()})
    assert whole.shape == (8, toys.FEATURE_DIM) and whole.dtype == torch.float32
    torch.testing.assert_close(whole[3:5], part, rtol=1e-4, atol=1e-5)


def test_images_without_a_batch_are_evaluated():
    model, batch = model_of().eval(), toys.batch()
    assert torch.equal(model(batch["images"]), model(batch))


def test_the_input_is_left_as_it_was():
    model, batch = model_of().eval(), toys.batch()
    before = batch["images"].clone()
    model(batch)
    assert torch.equal(batch["images"], before)


def test_the_view_head_can_be_left_out():
    assert "loss_view" not in model_of("MODEL.LOSSES.CE.VIEW_ID", False).train()(toys.batch())


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLos"), "did you mean 'TripletLoss'"),
        ("MODEL.HEADS.NECK_FEAT", "befor", "did you mean 'before'"),
        ("MODEL.HEADS.POOL_LAYER", "GeneralizedMeanPooling", "must be Identity"),
        (
            "MODEL.HEADS.CLS_LAYER",
            "ArcSoftmax",
            "linear classifier on vectors, so .*MODEL.HEADS.CLS_LAYER='ArcSoftmax'",
        ),
    ],
)
def test_wrong_settings_are_explained(option, value, message):
    with pytest.raises(KeyError, match=message):  # ConfigError and RegistryError are both one
        model_of(option, value)


def test_a_backbone_of_maps_is_refused():
    plain = [
        "MODEL.BACKBONE.STEM",
        "patch",
        "MODEL.BACKBONE.STRIDE_SIZE",
        (16, 16),
        "MODEL.BACKBONE.DROP_PATH_RATIO",
        0.1,
    ]
    with pytest.raises(KeyError, match="build_resnet_backbone gives maps. Set MODEL.BACKBONE.NAME build_vit_backbone"):
        model_of("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.BACKBONE.DEPTH", "18x",
                 "MODEL.BACKBONE.FEAT_DIM", 512, *plain)  # fmt: skip


def test_the_view_loss_may_be_the_only_one_but_one_there_must_be():
    model = model_of("MODEL.LOSSES.NAME", (), "MODEL.LOSSES.CE.VIEW_LAMBDA", 0.5).train()
    assert list(model(toys.batch())) == ["loss_view"]
    with pytest.raises(ConfigError, match="MODEL.LOSSES.NAME is empty"):
        model_of("MODEL.LOSSES.NAME", (), "MODEL.LOSSES.CE.VIEW_LAMBDA", 0.0)
