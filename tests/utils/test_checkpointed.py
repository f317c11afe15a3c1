"""What a model declares about its checkpoints, and the defaults of a module that declares nothing."""

import pytest
import torch
from torch import nn

from fastreid.utils.checkpointed import CheckpointedModule, checkpointed


class Net(CheckpointedModule):
    """A trainable layer, and an asset of which only the bias trains."""

    def __init__(self):
        super().__init__()
        self.own, self.asset = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        for name, parameter in self.asset.named_parameters():
            parameter.requires_grad_(name == "0.bias")
        self.register_frozen_asset("asset")


def test_frozen_weights_of_an_asset_stay_out_of_checkpoints_and_keep_their_values():
    model, other = Net(), Net()
    state = model.checkpoint_state_dict()
    buffers = {f"asset.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert state.keys() == {"own.weight", "own.bias", "asset.0.bias"} | buffers
    kept = other.asset[0].weight.clone()
    other.load_checkpoint_state_dict(state)
    assert torch.equal(other.own.weight, model.own.weight) and torch.equal(other.asset[0].bias, model.asset[0].bias)
    assert torch.equal(other.asset[0].weight, kept)


def test_buffers_of_an_asset_that_does_not_train_stay_out_too():
    model = Net()
    model.asset.requires_grad_(False)
    model.register_frozen_asset("asset")
    assert model.checkpoint_state_dict().keys() == {"own.weight", "own.bias"}


def test_what_is_frozen_after_the_declaration_is_saved():
    model = Net()
    names = model.checkpoint_state_dict().keys()
    model.requires_grad_(False)
    assert model.checkpoint_state_dict().keys() == names


def test_a_state_that_does_not_fit_is_an_error():
    model, state = Net(), Net().checkpoint_state_dict()
    lacking = {name: value for name, value in state.items() if name != "own.bias"}
    with pytest.raises(RuntimeError, match="lacks own.bias"):
        model.load_checkpoint_state_dict(lacking)
    model.load_checkpoint_state_dict(lacking, strict=False)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        model.load_checkpoint_state_dict(state | {"other": torch.zeros(1)})


def test_an_asset_that_is_no_part_of_the_model_is_an_error():
    with pytest.raises(AttributeError, match="assets"):
        Net().register_frozen_asset("assets")


def test_a_plain_module_has_the_defaults():
    module = nn.Linear(2, 3)
    declared = checkpointed(module)
    assert (declared.required_prefixes, declared.backbone_prefixes) == ((), ())
    assert declared.checkpoint_state_dict().keys() == {"weight", "bias"}
    state = {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}
    assert declared.adapt_checkpoint(state) is state
    declared.load_checkpoint_state_dict(state)
    assert torch.equal(module.weight, state["weight"])
    with pytest.raises(RuntimeError, match="Missing key"):
        declared.load_checkpoint_state_dict({"weight": torch.ones(3, 2)})


def test_a_module_that_declares_something_is_its_own_interface():
    model = Net()
    assert checkpointed(model) is model
