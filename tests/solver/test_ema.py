"""The moving average of weights against its formula, and what is copied."""

import pytest
import torch
from torch import nn

from fastreid.config import ConfigError, get_cfg
from fastreid.solver.ema import WeightAverage, build_weight_average


def model():
    torch.manual_seed(0)
    built = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    built[2].requires_grad_(False)
    return built


def step(built, number):
    torch.manual_seed(number)
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    built(torch.randn(4, 2))


@pytest.mark.parametrize("warmup", [False, True])
def test_it_is_the_formula(warmup):
    built = model()
    average = WeightAverage(built, momentum=0.9, warmup=warmup)
    average.restart()
    expected = {name: value.clone().double() for name, value in built.state_dict().items()}
    for t in range(30):
        step(built, t)
        average.update()
        m = min(0.9, (1 + t) / (10 + t)) if warmup else 0.9
        for name, value in built.state_dict().items():
            expected[name] = m * expected[name] + (1 - m) * value.double()
    found = average.in_place_of(built.state_dict())
    assert found.keys() == built.state_dict().keys() and average.updates == 30
    for name, value in found.items():
        if name == "1.num_batches_tracked":
            assert value == 30
        else:
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-5)


def test_frozen_parameters_are_not_copied_and_constants_stay_exact():
    built = model()
    built.register_buffer("constant", torch.randn(5))
    average = WeightAverage(built, momentum=0.7, warmup=False)
    average.restart()
    state = average.state_dict()["raw"]
    assert set(state) == {n for n in built.state_dict() if not n.startswith("2.")}
    for number in range(10):
        step(built, number)
        average.update()
    assert torch.equal(average.in_place_of(built.state_dict())["constant"], built.constant)


def test_the_model_holds_the_averages_inside_and_its_own_after():
    built = model()
    average = WeightAverage(built, momentum=0.5, warmup=False)
    average.restart()
    step(built, 1)
    average.update()
    raw = {name: value.clone() for name, value in built.state_dict().items()}
    averaged = average.in_place_of(raw)
    with pytest.raises(KeyboardInterrupt), average.applied():
        for name, value in built.state_dict().items():
            assert torch.equal(value, averaged[name]), name
        assert torch.equal(average.state_dict()["raw"]["0.weight"], raw["0.weight"])  # saved in the middle of it
        raise KeyboardInterrupt
    for name, value in built.state_dict().items():
        assert torch.equal(value, raw[name]), name
    assert not torch.equal(averaged["0.weight"], raw["0.weight"])


def test_statistics_that_were_computed_for_the_averages_stay_with_them():
    built = model()
    average = WeightAverage(built, momentum=0.5, warmup=False)
    average.restart()
    with average.applied():
        built[1].running_mean.fill_(7.0)
        average.adopt(["1.running_mean"])
    assert not built[1].running_mean.any()
    assert average.in_place_of(built.state_dict())["1.running_mean"].tolist() == [7.0] * 3


def test_a_shared_parameter_is_averaged_once_and_has_both_names():
    built = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    built[1].weight = built[0].weight
    average = WeightAverage(built, momentum=0.5, warmup=False)
    average.restart()
    assert list(average.state_dict()["raw"]) == ["0.weight"]
    with torch.no_grad():
        built[0].weight.add_(1.0)
    average.update()
    found = average.in_place_of(built.state_dict())
    torch.testing.assert_close(found["0.weight"], built[0].weight.detach() - 0.5)
    assert found["1.weight"] is found["0.weight"]


def test_config():
    cfg = get_cfg()
    assert build_weight_average(cfg, model()) is None
    cfg.SOLVER.EMA.ENABLED, cfg.SOLVER.EMA.MOMENTUM = True, 1.0
    with pytest.raises(ConfigError, match="from 0 to below 1, got 1.0"):
        build_weight_average(cfg, model())
