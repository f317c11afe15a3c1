"""Which parameter trains with which rate and decay."""

import pytest
import torch
from torch import nn

from fastreid.config import get_cfg
from fastreid.modeling import RatePart, ReidModel
from fastreid.solver import build_optimizer
from fastreid.solver.optimizer import group_parameters
from fastreid.utils.registry import RegistryError


class Model(ReidModel):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.overheads = nn.Linear(2, 2, bias=False)  # no head, whatever its name ends in
        self.identity_head = nn.ModuleDict({"bottleneck": nn.BatchNorm1d(2), "classifier": nn.Linear(2, 3)})
        self.token = nn.Parameter(torch.zeros(1, 2))

    def rate_parts(self):
        return [RatePart("SOLVER.HEADS_LR_FACTOR", (self.identity_head,))]


@pytest.fixture
def cfg():
    cfg = get_cfg()
    cfg.SOLVER.BASE_LR = 0.1
    cfg.SOLVER.HEADS_LR_FACTOR = 2.0
    cfg.SOLVER.BIAS_LR_FACTOR = 3.0
    cfg.SOLVER.WEIGHT_DECAY = 0.01
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.02
    cfg.SOLVER.WEIGHT_DECAY_BIAS = 0.03
    return cfg


def settings_by_name(cfg, model):
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: (round(group["lr"], 9), group["weight_decay"])
        for group in group_parameters(cfg, model)
        for p in group["params"]
    }


def test_every_rule(cfg):
    assert settings_by_name(cfg, Model()) == {
        "token": (0.1, 0.01),
        "backbone.0.weight": (0.1, 0.01),
        "backbone.0.bias": (0.3, 0.03),
        "backbone.1.weight": (0.1, 0.02),
        "backbone.1.bias": (0.1, 0.02),
        "overheads.weight": (0.1, 0.01),
        "identity_head.bottleneck.weight": (0.2, 0.02),
        "identity_head.bottleneck.bias": (0.2, 0.02),
        "identity_head.classifier.weight": (0.2, 0.01),
        "identity_head.classifier.bias": (0.6, 0.03),
    }


def test_equal_settings_share_a_group(cfg):
    cfg.SOLVER.HEADS_LR_FACTOR = cfg.SOLVER.BIAS_LR_FACTOR = 1.0
    cfg.SOLVER.WEIGHT_DECAY_NORM = cfg.SOLVER.WEIGHT_DECAY_BIAS = cfg.SOLVER.WEIGHT_DECAY
    assert len(group_parameters(cfg, Model())) == 1


def test_shared_parameters_are_taken_once(cfg):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    assert sum(len(group["params"]) for group in group_parameters(cfg, model)) == 3


def test_override_lr(cfg):
    cfg.SOLVER.OVERRIDE_LR = 0.5
    assert settings_by_name(cfg, Model())["token"] == (0.5, 0.01)


def test_optimizers(cfg):
    cfg.SOLVER.OPT, cfg.SOLVER.NESTEROV, cfg.SOLVER.MOMENTUM = "SGD", True, 0.8
    sgd = build_optimizer(cfg, Model())
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.defaults["nesterov"] and sgd.defaults["momentum"] == 0.8
    for name in ("Adam", "AdamW"):
        cfg.SOLVER.OPT = name
        assert type(build_optimizer(cfg, Model())).__name__ == name
    cfg.SOLVER.OPT = "AdmaW"
    with pytest.raises(RegistryError, match=r"unknown SOLVER\.OPT 'AdmaW'; did you mean 'AdamW'"):
        build_optimizer(cfg, Model())


def test_nothing_to_train(cfg):
    with pytest.raises(ValueError, match="nothing to train"):
        build_optimizer(cfg, Model().requires_grad_(False))


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_a_step_is_torch_s_plain_step(cfg, name):
    cfg.SOLVER.OPT = name
    ours, theirs = Model(), Model()
    theirs.load_state_dict(ours.state_dict())
    optimizer = build_optimizer(cfg, ours)
    options = {"momentum": cfg.SOLVER.MOMENTUM} if name == "SGD" else {}
    plain = getattr(torch.optim, name)(group_parameters(cfg, theirs), lr=1.0, fused=False, **options)
    for _ in range(3):
        for model in (ours, theirs):
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, 0.1) + parameter.detach()
        optimizer.step()
        plain.step()
    for (key, value), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(value, other, msg=key)


@pytest.mark.parametrize("name", ["NAdam", "RAdam", "Adagrad", "Adadelta", "Adamax", "RMSprop", "ASGD", "Adafactor"])
def test_any_class_of_torch_optim_trains(cfg, name):
    cfg.SOLVER.OPT = name
    model = nn.Linear(2, 2)
    optimizer, before = build_optimizer(cfg, model), model.weight.detach().clone()
    assert isinstance(optimizer, getattr(torch.optim, name))
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert not torch.equal(model.weight, before)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.01, 0.03}


def test_an_optimiser_s_own_arguments(cfg):
    cfg.SOLVER.OPT = "RMSprop"
    cfg.merge_from_list(["SOLVER.OPT_ARGS", "[['alpha', 0.5], ['eps', '1e-6'], ['centered', True]]"])
    found = build_optimizer(cfg, Model()).defaults
    assert (found["alpha"], found["eps"], found["centered"]) == (0.5, 1e-6, True)
    cfg.SOLVER.OPT, cfg.SOLVER.OPT_ARGS = "AdamW", [["betas", [0.8, 0.9]], ["amsgrad", True]]
    found = build_optimizer(cfg, Model()).defaults
    assert (found["betas"], found["amsgrad"]) == ((0.8, 0.9), True)


def test_arguments_in_yaml(cfg, tmp_path):
    (tmp_path / "a.yml").write_text("SOLVER:\n  OPT: NAdam\n  OPT_ARGS: [[betas, [0.8, 0.9]], [eps, 1e-6]]\n")
    cfg.merge_from_file(str(tmp_path / "a.yml"))
    (tmp_path / "dumped.yml").write_text(cfg.dump())
    again = get_cfg()
    again.merge_from_file(str(tmp_path / "dumped.yml"))
    for each in (cfg, again):
        found = build_optimizer(each, Model()).defaults
        assert (found["betas"], found["eps"]) == ((0.8, 0.9), 1e-6)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "Adam",
            [["beta", [0.9, 0.9]]],
            r"unknown argument of Adam .* 'beta'; did you mean 'betas'\? Legal: betas, eps",
        ),
        ("Adam", [["lr", 1.0]], "sets lr, which has keys of its own: SOLVER.BASE_LR"),
        ("SGD", [["momentum", 0.5]], "sets momentum, which has keys of its own: SOLVER.MOMENTUM"),
        ("RMSprop", [["weight_decay", 0.5]], "own: SOLVER.WEIGHT_DECAY"),
        ("Adam", ["betas"], r"list of pairs.*'betas' is none"),
        ("Adam", [["betas", [2.0, 0.9]]], "SOLVER.OPT Adam with .*: Invalid beta"),
        ("LBFGS", [], "LBFGS cannot be used here: it calls the model again and again"),
        ("SparseAdam", [], "SparseAdam cannot be used here: it takes sparse gradients only"),
        ("Rprop", [], "Rprop has no weight decay: set SOLVER.WEIGHT_DECAY, SOLVER.WEIGHT_DECAY_NORM"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(cfg, name, arguments, message):
    cfg.SOLVER.OPT, cfg.SOLVER.OPT_ARGS = name, arguments
    with pytest.raises(ValueError, match=message):
        build_optimizer(cfg, Model())


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this version of torch has no Muon")
def test_muon_says_what_it_steps(cfg):
    cfg.SOLVER.OPT = "Muon"
    with pytest.raises(ValueError, match=r"Muon steps matrices only, and 1 of this model's 2 .*the first is \[2\]"):
        build_optimizer(cfg, nn.Linear(2, 2))
    assert build_optimizer(cfg, nn.Linear(2, 2, bias=False)).defaults["momentum"] == 0.95


def test_rprop_without_decay(cfg):
    cfg.SOLVER.OPT = "Rprop"
    cfg.SOLVER.WEIGHT_DECAY = cfg.SOLVER.WEIGHT_DECAY_NORM = cfg.SOLVER.WEIGHT_DECAY_BIAS = 0.0
    assert isinstance(build_optimizer(cfg, Model()), torch.optim.Rprop)
