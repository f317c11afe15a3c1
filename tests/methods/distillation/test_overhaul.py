"""Margins, the partial distance, and maps before the last activation of each stage."""

import pytest
import torch
from scipy.stats import norm as normal
from torch import nn

from fastreid.config import ConfigError
from fastreid.methods.distillation.overhaul import (
    OverhaulLoss,
    keep_inputs,
    margins,
    partial_distance,
    require_resnet,
    stage_maps,
)
from fastreid.modeling.backbones.resnet import RESNETS, RESNEXTS, ResNet


def test_margins_are_the_mean_of_negative_values():
    weight, bias = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.0, 1.0, -0.3])
    draws = torch.randn(400_000, 3, generator=torch.Generator().manual_seed(0)) * weight + bias
    drawn = [column[column < 0].mean().item() for column in draws.T]
    assert margins(weight, bias).tolist() == pytest.approx(drawn, rel=0.01)


def test_channels_that_are_hardly_negative_have_three_deviations():
    # P(x < 0) is 0.00097 and 0.00104; of the formula only the second one.
    near = [-normal.ppf(0.00097), -normal.ppf(0.00104)]
    found = margins(torch.tensor([1.0, 1.0]), torch.tensor(near, dtype=torch.float32)).tolist()
    assert found[0] == pytest.approx(-3) and found[1] == pytest.approx(
        near[1] - normal.pdf(near[1]) / 0.00104, abs=0.01
    )


def test_margins_of_channels_without_deviation_are_finite():
    assert margins(torch.zeros(3), torch.tensor([1.0, 0.0, -1.0])).isfinite().all()


def test_the_partial_distance():
    margin = torch.tensor([-1.0])
    # student, teacher: both positive; above a negative teacher; below a negative teacher; below the margin.
    student, teacher = torch.tensor([2.0, 0.5, -0.8, -1.5]), torch.tensor([3.0, -0.5, -0.5, -4.0])
    found = partial_distance(student.view(1, 1, 2, 2), teacher.view(1, 1, 2, 2), margin)
    assert found.item() == pytest.approx(1.0 + 1.0)
    above = partial_distance(torch.tensor(-0.5).view(1, 1, 1, 1), torch.tensor(-4.0).view(1, 1, 1, 1), margin)
    assert above.item() == pytest.approx(0.25)  # to the margin, not to the value


NETWORKS = {
    "basic blocks": (RESNETS["18x"], {}, [64, 128, 256, 512]),
    "bottlenecks": (RESNETS["50x"], {"with_nl": True, "with_ibn": True}, [256, 512, 1024, 2048]),
    "groups": (RESNEXTS["50x"], {"with_se": True}, [256, 512, 1024, 2048]),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_maps_before_the_last_activation(kind):
    size, options, channels = NETWORKS[kind]
    torch.manual_seed(0)
    network = ResNet(size, **options).eval()
    images = torch.randn(2, 3, 32, 16)
    before = network(images)
    keep_inputs(network)
    maps, stages = stage_maps(network, images)
    torch.testing.assert_close(maps, before)
    assert [stage.shape[1] for stage in stages] == channels
    assert all((stage < 0).any() for stage in stages)  # not overwritten by the activation
    if kind == "basic blocks":  # no non-local block follows
        torch.testing.assert_close(stages[-1].relu(), maps)
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_a_student_that_is_like_its_teacher_has_no_distance():
    torch.manual_seed(0)
    network = ResNet(RESNETS["18x"]).eval()
    loss = OverhaulLoss(network, network, norm="BN").eval()
    for connector in loss.connectors:
        nn.init.dirac_(connector[0].weight)
    keep_inputs(network)
    stages = [stage.clamp(min=-1e-3) for stage in stage_maps(network, torch.randn(2, 3, 32, 16))[1]]
    assert loss(stages, stages).item() == pytest.approx(0, abs=1e-4)


def test_weights_of_stages_and_the_divisor():
    network = ResNet(RESNETS["18x"])
    loss = OverhaulLoss(network, network).eval()
    for connector in loss.connectors:
        nn.init.dirac_(connector[0].weight)
    for stage, weight in enumerate((1 / 8, 1 / 4, 1 / 2, 1)):
        shapes = [(2, width, 2, 1) for width in (64, 128, 256, 512)]
        theirs = [torch.full(shape, 10.0) for shape in shapes]
        own = [maps + (number == stage) for number, maps in enumerate(theirs)]
        expected = weight * own[stage].numel() / 2 / 10_000
        assert loss(own, theirs).item() == pytest.approx(expected, rel=1e-3)


def test_maps_of_another_size_are_refused():
    network = ResNet(RESNETS["18x"])
    loss = OverhaulLoss(network, network)
    own = [torch.zeros(2, width, 4, 2) for width in (64, 128, 256, 512)]
    theirs = [*own[:3], torch.zeros(2, 512, 2, 1)]
    with pytest.raises(ConfigError, match="stage 4 of student and teacher are 4 x 2 and 2 x 1.*LAST_STRIDE"):
        loss(own, theirs)


def test_margins_are_not_in_checkpoints():
    network = ResNet(RESNETS["18x"])
    assert not [name for name in OverhaulLoss(network, network).state_dict() if "margin" in name]


def test_another_network_is_refused():
    with pytest.raises(ConfigError, match="backbone of the teacher is a Linear: take build_resnet_backbone"):
        require_resnet(nn.Linear(1, 1), "teacher")
