"""The table of losses: every row by its name, weighted by its keys; focal and centre loss against closed forms."""

import math

import pytest
import torch
from torch import nn

from fastreid.config import ConfigError, get_cfg
from fastreid.modeling import losses as module
from fastreid.modeling.losses import LOSS_REGISTRY, CenterLoss, Loss, LossTerms, focal_loss, loss_options
from fastreid.modeling.losses.table import require_losses

TARGETS = torch.tensor([0, 0, 1, 1, 2, 2])


def outputs(dim=4, classes=3):
    generator = torch.Generator().manual_seed(0)
    return {
        "cls_outputs": torch.randn(6, classes, generator=generator),
        "features": torch.randn(6, dim, generator=generator),
    }


def terms_of(names, *options, dim=4):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.LOSSES.NAME", names, "MODEL.HEADS.NUM_CLASSES", 3, "MODEL.BACKBONE.FEAT_DIM", dim])
    cfg.merge_from_list(list(options))
    return LossTerms(loss_options(cfg))


# name -> (term, SCALE key, what it should be with the keys' defaults)
ROWS = {
    "CrossEntropyLoss": ("loss_cls", "CE", lambda o: module.cross_entropy_loss(o["cls_outputs"], TARGETS, 0.0, 0.2)),
    "FocalLoss": ("loss_focal", "FL", lambda o: module.focal_loss(o["cls_outputs"], TARGETS, 0.25, 2)),
    "TripletLoss": ("loss_triplet", "TRI", lambda o: module.triplet_loss(o["features"], TARGETS, 0.3, False, False)),
    "CircleLoss": ("loss_circle", "CIRCLE", lambda o: module.pairwise_circleloss(o["features"], TARGETS, 0.25, 128)),
    "Cosface": ("loss_cosface", "COSFACE", lambda o: module.pairwise_cosface(o["features"], TARGETS, 0.25, 128)),
    "CenterLoss": ("loss_center", "CENTER", lambda o: o["features"].square().sum(1).mean() / 2),
}


@pytest.mark.parametrize("name", ROWS)
def test_each_row_reads_its_keys_and_is_weighted(name):
    term, group, expected = ROWS[name]
    found = terms_of((name,), f"MODEL.LOSSES.{group}.SCALE", 0.5)(outputs(), TARGETS)
    assert list(found) == [term]
    torch.testing.assert_close(found[term], 0.5 * expected(outputs()))


def test_every_row_is_tested_and_every_loss_group_has_a_row():
    assert set(LOSS_REGISTRY) == set(ROWS)
    groups = {key for key, value in get_cfg().MODEL.LOSSES.items() if isinstance(value, dict)}
    groups -= {"PCL", "DIFF", "CLUSTER", "BCE"}  # DCAC, ClusterContrast and AttrBaseline compute them themselves
    assert groups == {LOSS_REGISTRY.get(name).group for name in ROWS}


def test_an_empty_list_of_losses_is_refused_by_its_key():
    with pytest.raises(ConfigError, match="MODEL.LOSSES.NAME"):
        require_losses({"loss_names": ()})
    require_losses({"loss_names": ("CenterLoss",)})


def test_a_loss_without_keys_has_scale_one():
    cfg = get_cfg()
    del cfg.MODEL.LOSSES["CENTER"]
    assert loss_options(cfg)["center"]["scale"] == 1


def test_keys_other_than_the_scale_are_read_too():
    options = ["MODEL.LOSSES.CE.EPSILON", 0.2, "MODEL.LOSSES.TRI.HARD_MINING", True, "MODEL.LOSSES.TRI.MARGIN", 0.0]
    found, given = terms_of(("TripletLoss", "CrossEntropyLoss"), *options)(outputs(), TARGETS), outputs()
    assert list(found) == ["loss_triplet", "loss_cls"]
    torch.testing.assert_close(found["loss_cls"], module.cross_entropy_loss(given["cls_outputs"], TARGETS, 0.2))
    torch.testing.assert_close(found["loss_triplet"], module.triplet_loss(given["features"], TARGETS, 0.0, False, True))


def test_options_are_fast_reids_loss_kwargs():
    options = loss_options(get_cfg())
    assert options["loss_names"] == ("CrossEntropyLoss",)
    assert options["ce"] == {"eps": 0.0, "alpha": 0.2, "scale": 1.0}
    assert options["tri"] == {
        "margin": 0.3,
        "norm_feat": False,
        "hard_mining": False,
        "exact_softmax": False,
        "scale": 1.0,
    }
    assert options["circle"] == options["cosface"] == {"margin": 0.25, "gamma": 128, "scale": 1.0}


def test_an_unknown_name_is_explained():
    with pytest.raises(KeyError, match="unknown loss in MODEL.LOSSES.NAME 'FocalLos'; did you mean 'FocalLoss'"):
        terms_of(("FocalLos",))


def test_a_loss_of_ones_own_needs_no_keys(monkeypatch):
    monkeypatch.setattr(LOSS_REGISTRY, "_objects", dict(LOSS_REGISTRY._objects))
    LOSS_REGISTRY.register(Loss("loss_size", "features", lambda f, t: f.square().mean(), "SIZE"), name="Size")
    assert list(terms_of(("Size",))(outputs(), TARGETS)) == ["loss_size"]


def test_focal_loss_in_closed_form():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    p = [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(1))]  # of the true class 0
    expected = sum(-0.25 * (1 - q) ** 2 * math.log(q) for q in p) / 2
    assert focal_loss(logits, torch.tensor([0, 0]), 0.25, 2).item() == pytest.approx(expected, rel=1e-5)
    plain = module.cross_entropy_loss(logits, torch.tensor([0, 0]), 0.0)
    torch.testing.assert_close(focal_loss(logits.bfloat16(), torch.tensor([0, 0]), 1.0, 0), plain)


def test_centres_move_by_the_papers_rule_and_not_by_the_optimiser():
    loss, features = CenterLoss(3, 2, alpha=0.5), torch.tensor([[2.0, 0.0], [4.0, 0.0], [0.0, 6.0]], requires_grad=True)
    people = torch.tensor([0, 0, 2])
    value = loss(features, people)
    assert value.item() == pytest.approx((4 + 16 + 36) / 6)
    value.backward()
    torch.testing.assert_close(features.grad, features.detach() / 3)  # of the centres as they were
    # Class 0: 0.5 * (2 + 4) / (1 + 2); class 2: 0.5 * 6 / (1 + 1); nobody of class 1.
    torch.testing.assert_close(loss.class_centres, torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.5]]))
    assert list(loss.parameters()) == [] and list(loss.state_dict()) == ["class_centres"]
    before = loss.class_centres.clone()
    loss.eval()(features, people)
    assert torch.equal(loss.class_centres, before)
    assert [CenterLoss(3, 2, alpha).alpha for alpha in (0, 1)] == [0, 1]
    for alpha in (2, -0.1):
        with pytest.raises(ValueError, match=f"ALPHA must be in 0…1, got {alpha}"):
            CenterLoss(3, 2, alpha)


def test_centres_are_of_the_size_of_what_the_loss_sees():
    terms = terms_of(("CenterLoss",), "MODEL.HEADS.EMBEDDING_DIM", 2, "MODEL.HEADS.NECK_FEAT", "after")
    assert terms["CenterLoss"].class_centres.shape == (3, 2)
    assert terms_of(("CenterLoss",), "MODEL.HEADS.EMBEDDING_DIM", 2)["CenterLoss"].class_centres.shape == (3, 4)
    assert isinstance(terms, nn.Module) and list(terms.state_dict()) == ["CenterLoss.class_centres"]
