"""Channels last: the same results but for rounding, and training states that can be exchanged."""

import pytest
import torch
from torch import nn

from fastreid.config import get_cfg
from fastreid.modeling import build_model
from fastreid.solver import build_optimizer
from tests.modeling import toys

RESNET = [
    *("MODEL.BACKBONE.DEPTH", "18x", "MODEL.DEVICE", "cpu", "MODEL.BACKBONE.PRETRAIN", False),
    *("MODEL.HEADS.EMBEDDING_DIM", 8, "MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLoss")),
]
CASES = {
    "ResNet": [],
    "IBN, SE, non-local": [
        "MODEL.BACKBONE.WITH_IBN",
        True,
        "MODEL.BACKBONE.WITH_SE",
        True,
        "MODEL.BACKBONE.WITH_NL",
        True,
    ],
    "GhostBN": ["MODEL.BACKBONE.NORM", "GhostBN", "MODEL.HEADS.NORM", "GhostBN"],
}


def cfg_of(keys, channels_last):
    cfg = get_cfg()
    cfg.merge_from_list([*RESNET, *keys, "MODEL.CHANNELS_LAST", channels_last])
    return cfg


def made(cfg):
    torch.manual_seed(0)
    model = build_model(cfg, num_classes=4)
    if cfg.MODEL.META_ARCHITECTURE == "SDReIDStage2":
        toys.fill_memory(model)
    return model


def outcome(model):
    """Descriptors, losses and gradients."""
    batch = toys.batch()
    with torch.no_grad():
        descriptors = model.eval()(batch)
    torch.manual_seed(1)
    losses = model.train()(batch)
    sum(losses.values()).backward()
    gradients = {name: part.grad for name, part in model.named_parameters() if part.grad is not None}
    return descriptors, losses, gradients


def check(cfg_for):
    plain, other = (made(cfg_for(channels_last)) for channels_last in (False, True))
    maps = [part for part in other.parameters() if part.ndim == 4 and part.shape[1] > 1 and part.shape[2] > 1]
    assert maps and all(part.is_contiguous(memory_format=torch.channels_last) for part in maps)
    torch.testing.assert_close(outcome(other), outcome(plain), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_networks_of_convolutions(name):
    check(lambda channels_last: cfg_of(CASES[name], channels_last))


def test_a_unet(assets):
    check(lambda channels_last: toys.stage2_cfg(assets, "MODEL.CHANNELS_LAST", channels_last))


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD"])
def test_the_state_of_an_optimiser_fits_the_other_layout(name):
    cfg, found = cfg_of(["SOLVER.OPT", name], False), []
    for layouts in (
        ["contiguous_format"] * 2,
        ["contiguous_format", "channels_last"],
        ["channels_last", "contiguous_format"],
    ):
        generator, weight, state = torch.Generator().manual_seed(0), torch.zeros(4, 3, 3, 3), None
        for layout in (getattr(torch, layout) for layout in layouts):
            model = nn.Conv2d(3, 4, 3, bias=False).to(memory_format=layout)
            model.load_state_dict({"weight": weight})
            optimizer = build_optimizer(cfg, model)
            if state is not None:
                optimizer.load_state_dict(state)
            model.weight.grad = torch.randn(4, 3, 3, 3, generator=generator).contiguous(memory_format=layout)
            optimizer.step()
            weight, state = model.weight.detach(), optimizer.state_dict()
        found.append(weight)
    assert torch.equal(found[1], found[0]) and torch.equal(found[2], found[0])
