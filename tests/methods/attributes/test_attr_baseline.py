"""AttrBaseline: the weighted loss, the counted shares, what it returns, and what it refuses."""

import math

import pytest
import torch

from fastreid.config import ConfigError, get_cfg
from fastreid.methods.attributes.shares import AttributeShares
from fastreid.methods.attributes.weighted_bce import weighted_bce
from fastreid.modeling import build_model
from fastreid.structures import PersonImage
from fastreid.utils.weights import WeightsError, load_weights

A = 3
TINY = (
    *("MODEL.DEVICE", "cpu", "MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.BACKBONE.TIMM_NAME", "test_vit"),
    *("INPUT.SIZE_TRAIN", [32, 16], "INPUT.SIZE_TEST", [32, 16], "MODEL.HEADS.WITH_BNNECK", True),
    *("MODEL.META_ARCHITECTURE", "AttrBaseline", "MODEL.HEADS.NAME", "AttrHead", "MODEL.HEADS.NUM_CLASSES", A),
    *("MODEL.LOSSES.NAME", ("BinaryCrossEntropyLoss",)),
)


def model_of(*keys):
    cfg = get_cfg()
    cfg.merge_from_list([*TINY, *keys])
    torch.manual_seed(0)
    return build_model(cfg)


def batch(size=6):
    draw = torch.Generator().manual_seed(1)
    images = torch.rand(size, 3, 32, 16, generator=draw) * 255
    return {"images": images, "attributes": (torch.rand(size, A, generator=draw) > 0.5).float()}


class Images:
    """The part of a training set that the count of shares reads."""

    images = [PersonImage("a", -2, 0, 0, (1, 0, 1)), PersonImage("b", -2, 0, 0, (1, 1, 0))] * 2


def test_the_loss_is_that_of_the_formula():
    logits, shares = torch.tensor([[0.5, -2.0], [1.5, 0.0]]), torch.tensor([0.9, 0.25])
    true, total = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), {True: 0.0, False: 0.0}
    for row, of in zip(logits.tolist(), true.tolist(), strict=True):
        for z, y, p in zip(row, of, shares.tolist(), strict=True):
            q = 1 / (1 + math.exp(-z))
            loss = -(y * math.log(q) + (1 - y) * math.log(1 - q))
            total[True] += math.exp(y * (1 - p) + (1 - y) * p) * loss / 4
            total[False] += loss / 4
    assert weighted_bce(logits, true, shares).item() == pytest.approx(total[True])
    assert weighted_bce(logits, true).item() == pytest.approx(total[False])


def test_shares_are_counted_once_and_kept_in_checkpoints():
    taken = []
    task, again = AttributeShares(taken.append), AttributeShares(taken.append)
    assert [task.is_due(epoch) for epoch in range(3)] == [True, False, False] and task.state_dict() == {}
    assert task.run(Images()) is None
    again.load_state_dict(task.state_dict())
    again.load_state_dict({})
    assert [shares.tolist() for shares in taken] == [[1.0, 0.5, 0.5]] * 2


def test_training_gives_one_loss_and_evaluation_probabilities():
    model = model_of("MODEL.LOSSES.BCE.SCALE", 2.0).train()
    (task,) = model.epoch_tasks()
    task.run(Images())
    given = batch()
    losses = model(given)
    assert list(losses) == ["loss_bce"]
    logits = model.heads(model.backbone(model.preprocess_image(given)))
    expected = 2 * weighted_bce(logits, given["attributes"], torch.tensor([1.0, 0.5, 0.5]))
    torch.testing.assert_close(losses["loss_bce"], expected)
    losses["loss_bce"].backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    found = model.eval()(given)
    assert found.shape == (6, A) and found.min() > 0 and found.max() < 1
    torch.testing.assert_close(found, model(given["images"]))


def test_without_weights_nothing_is_counted():
    model = model_of("MODEL.LOSSES.BCE.WEIGHT_ENABLED", False).train()
    given = batch()
    logits = model.heads(model.backbone(model.preprocess_image(given)))
    assert list(model.epoch_tasks()) == []
    torch.testing.assert_close(model(given)["loss_bce"], weighted_bce(logits, given["attributes"]))


def test_shares_are_not_in_the_weights_of_a_checkpoint():
    assert [name for name in model_of().state_dict() if "shares" in name] == []


def test_probabilities_are_float32_under_autocast():
    model = model_of().eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert model(batch()).dtype == torch.float32


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (("MODEL.HEADS.NUM_CLASSES", 0), "AttrHead needs MODEL.HEADS.NUM_CLASSES, the number of attributes"),
        (("MODEL.HEADS.NAME", "EmbeddingHead"), "AttrBaseline needs MODEL.HEADS.NAME AttrHead, got EmbeddingHead"),
        (("MODEL.HEADS.CLS_LAYER", "CosSoftmax"), "AttrHead needs MODEL.HEADS.CLS_LAYER Linear, got CosSoftmax"),
        (("MODEL.LOSSES.NAME", ("CrossEntropyLoss",)), r"set MODEL.LOSSES.NAME to \['BinaryCrossEntropyLoss'\]"),
    ],
)
def test_what_cannot_be_built(keys, said):
    with pytest.raises(ConfigError, match=said):
        model_of(*keys)


def test_images_without_attributes_are_refused():
    model = model_of()
    model.check_data(Images.images)
    with pytest.raises(ConfigError, match=r"3 attributes \(MODEL.HEADS.NUM_CLASSES\), but image c of .* has 0"):
        model.check_data([*Images.images, PersonImage("c", 1, 0)])


def test_a_checkpoint_of_other_attributes_is_not_evaluated(tmp_path):
    torch.save({"model": model_of("MODEL.HEADS.NUM_CLASSES", 4).state_dict()}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"lacks .*heads\.bnneck"):
        load_weights(model_of(), tmp_path / "other.pth", to_evaluate=True)


@pytest.mark.parametrize("keys", [("MODEL.HEADS.NECK_FEAT", "after"), ("MODEL.HEADS.SCALE", 64)])
def test_keys_of_other_heads_are_logged(caplog, keys):
    model_of()
    assert "AttrHead reads neither" not in caplog.text
    model_of(*keys)
    assert "AttrHead reads neither MODEL.HEADS.NECK_FEAT nor MODEL.HEADS.SCALE" in caplog.text
