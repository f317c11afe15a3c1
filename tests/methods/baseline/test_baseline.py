"""Baseline: fast-reid's interface, its names in checkpoints, and the three recipes' losses on a small ResNet."""

import pytest
import torch

from fastreid.config import ConfigError, get_cfg
from fastreid.modeling import build_model
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY, Baseline
from fastreid.utils.registry import RegistryError
from fastreid.utils.weights import WeightsError, load_weights

SMALL = ["MODEL.BACKBONE.DEPTH", "18x", "MODEL.HEADS.NUM_CLASSES", 4, "MODEL.DEVICE", "cpu"]


def cfg_of(*options):
    cfg = get_cfg()
    cfg.merge_from_list([*SMALL, *options])
    return cfg


def model_of(*options):
    torch.manual_seed(0)
    return build_model(cfg_of(*options))


def batch(size=8):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(size, 3, 64, 32, generator=generator) * 255
    return {"images": images, "targets": torch.arange(size) // 2 % 4, "camids": torch.arange(size)}


AGW = [
    *("MODEL.BACKBONE.WITH_IBN", True, "MODEL.HEADS.WITH_BNNECK", True, "MODEL.HEADS.EMBEDDING_DIM", 16),
    *("MODEL.HEADS.POOL_LAYER", "GeneralizedMeanPoolingP", "MODEL.HEADS.NECK_FEAT", "after"),
    *("MODEL.HEADS.CLS_LAYER", "CircleSoftmax", "MODEL.HEADS.SCALE", 64, "MODEL.HEADS.MARGIN", 0.35),
    *("MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLoss", "CircleLoss", "CenterLoss")),
]


def test_losses_in_training_and_a_feature_otherwise():
    model = model_of("MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLoss"))
    losses = model.train()(batch())
    assert list(losses) == ["loss_cls", "loss_triplet"] and all(loss.ndim == 0 for loss in losses.values())
    feature = model.eval()(batch())
    assert feature.shape == (8, 512) and feature.dtype == torch.float32
    torch.testing.assert_close(model(batch()["images"]), feature)  # images alone, as exporters give them
    torch.testing.assert_close(model(batch(3)), feature[:3], rtol=1e-4, atol=1e-5)


def test_it_is_built_from_the_parts_that_the_config_names():
    model = model_of(*AGW)
    losses = model.train()(batch())
    assert list(losses) == ["loss_cls", "loss_triplet", "loss_circle", "loss_center"]
    assert model.eval()(batch()).shape == (8, 16)
    assert model.loss_terms["CenterLoss"].class_centres.shape == (4, 16)


def test_every_parameter_that_trains_gets_a_gradient():
    model = model_of(*AGW).train()
    sum(model(batch()).values()).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_without_a_loss_of_logits_there_is_no_classifier_to_train():
    model = model_of("MODEL.LOSSES.NAME", ("TripletLoss",), "MODEL.HEADS.WITH_BNNECK", True).train()
    sum(model(batch()).values()).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert not model.heads.weight.requires_grad


def test_without_any_loss_there_is_nothing_to_train_with(monkeypatch):
    with pytest.raises(ConfigError, match="MODEL.LOSSES.NAME is empty.*CrossEntropyLoss"):
        model_of("MODEL.LOSSES.NAME", ())

    class WithOwn(Baseline):
        def losses(self, outputs, gt_labels):
            return {"loss_own": outputs["features"].sum()}

    monkeypatch.setattr(META_ARCH_REGISTRY, "_objects", {"WithOwn": WithOwn})
    model = model_of("MODEL.META_ARCHITECTURE", "WithOwn", "MODEL.LOSSES.NAME", ()).train()
    assert list(model(batch())) == ["loss_own"]


@pytest.mark.parametrize("key", ["MODEL.HEADS.NAME", "MODEL.BACKBONE.NAME", "MODEL.META_ARCHITECTURE"])
def test_an_unknown_part_names_its_key(key):
    with pytest.raises(RegistryError, match=f"unknown .* in {key} 'x'"):
        model_of(key, "x")


def test_images_are_normalised_and_left_as_they_were():
    model, given = model_of("MODEL.PIXEL_MEAN", [1.0, 2.0, 3.0], "MODEL.PIXEL_STD", [2.0, 4.0, 8.0]).eval(), batch()
    before = given["images"].clone()
    once, twice = model(given), model(given)
    assert torch.equal(given["images"], before) and torch.equal(once, twice)
    normalised = model.preprocess_image(given)
    torch.testing.assert_close(normalised[:, 2], (before[:, 2] - 3) / 8)
    assert "pixel_mean" not in model.state_dict() and "pixel_mean" in dict(model.named_buffers())
    assert model.device.type == "cpu"


def test_names_in_checkpoints_are_fast_reids():
    names = set(model_of(*AGW[:-2]).state_dict())
    wanted = {"backbone.conv1.weight", "backbone.layer1.0.bn1.IN.weight", "backbone.layer4.1.bn2.running_var"}
    wanted |= {"heads.pool_layer.p", "heads.bottleneck.0.weight", "heads.bottleneck.1.running_mean", "heads.weight"}
    assert wanted <= names and {name.partition(".")[0] for name in names} == {"backbone", "heads"}


def test_a_checkpoint_of_other_people_and_centres_evaluates(tmp_path):
    trained = model_of(*AGW)
    torch.save({"model": trained.state_dict()}, tmp_path / "model.pth")
    model = build_model(cfg_of(*AGW), num_classes=1)
    report = load_weights(model, tmp_path / "model.pth", to_evaluate=True)
    assert len(report.dropped_classifiers) == 2
    torch.testing.assert_close(model.eval()(batch()), trained.eval()(batch()))
    with pytest.raises(WeightsError, match="lacks heads.bottleneck.0.weight"):
        wide = build_model(cfg_of(*AGW, "MODEL.HEADS.EMBEDDING_DIM", 8), num_classes=1)
        load_weights(wide, tmp_path / "model.pth", to_evaluate=True)


def test_a_vit_is_pooled_already():
    keys = [
        "MODEL.BACKBONE.NAME",
        "build_vit_backbone",
        "MODEL.BACKBONE.DEPTH",
        "mini",
        "MODEL.HEADS.POOL_LAYER",
        "Identity",
    ]
    sizes = ["INPUT.SIZE_TRAIN", [64, 32], "INPUT.SIZE_TEST", [64, 32], "MODEL.HEADS.WITH_BNNECK", True]
    model = model_of(*keys, *sizes)
    sum(model.train()(batch()).values()).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert model.eval()(batch()).shape == (8, 192)
    assert {"backbone.cls_token", "backbone.blocks.0.attn.qkv.weight", "heads.bottleneck.0.weight"} <= set(
        model.state_dict()
    )


def test_forks_override_its_methods(monkeypatch):
    monkeypatch.setattr(META_ARCH_REGISTRY, "_objects", dict(META_ARCH_REGISTRY._objects))

    @META_ARCH_REGISTRY.register()
    class Fork(Baseline):
        @classmethod
        def from_config(cls, cfg):
            parts = super().from_config(cfg)
            parts["loss_kwargs"]["ce"]["eps"] = 0.1
            return parts

        def preprocess_image(self, batched_inputs):
            return super().preprocess_image(batched_inputs) + 0

        def losses(self, outputs, gt_labels):
            assert self.loss_kwargs["loss_names"] == ("CrossEntropyLoss", "OnlyTheForkKnowsIt")
            assert self.loss_kwargs["ce"]["eps"] == 0.1
            found = super().losses(outputs, gt_labels)
            return {**found, "loss_norm": outputs["features"].square().mean()}

    names = ["MODEL.LOSSES.NAME", ("CrossEntropyLoss", "OnlyTheForkKnowsIt")]
    assert list(model_of("MODEL.META_ARCHITECTURE", "Fork", *names).train()(batch())) == ["loss_cls", "loss_norm"]
