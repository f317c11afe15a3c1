"""Weights that are no usual numbers: what is refused, what is worth a warning."""

import logging

import pytest
import torch
from torch import nn

from fastreid.utils.checkpoint import Checkpointer
from fastreid.utils.checkpoint_file import WeightsError
from fastreid.utils.weights import load_weights


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.register_buffer("mask", torch.full((2,), -torch.inf))


def saved(folder, **changed):
    state = Model().state_dict() | {name.replace("__", "."): value for name, value in changed.items()}
    torch.save({"model": state}, folder / "model.pth")
    return folder / "model.pth"


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["backbone__0__weight", "backbone__1__running_var"])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_that_are_not_finite_are_named(tmp_path, caplog, value, name, kind):
    tensor = Model().state_dict()[name.replace("__", ".")].to(kind)
    tensor.view(-1)[1] = value
    path = saved(tmp_path, **{name: tensor})
    report = Checkpointer(Model()).load(path)
    assert name.replace("__", ".") in report.matched
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    message = record.getMessage()
    assert str(path) in message and name.replace("__", ".") in message and "NaN or infinite, in 1 of" in message


def test_finite_weights_and_masks_need_no_warning(tmp_path, caplog):
    load_weights(Model(), saved(tmp_path))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("kind", [torch.int8, torch.int64, torch.uint8, torch.bool])
def test_whole_numbers_for_a_floating_point_parameter_are_refused(tmp_path, kind):
    path, model = saved(tmp_path, backbone__0__weight=torch.ones(4, 3, dtype=kind)), Model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r"backbone\.0\.weight \(torch\..*were they quantised"):
        load_weights(model, path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_counters_may_be_of_another_kind(tmp_path):
    model = Model()
    load_weights(model, saved(tmp_path, backbone__1__num_batches_tracked=torch.tensor(7.0)))
    assert model.backbone[1].num_batches_tracked == 7


def test_numbers_that_the_models_kind_has_no_room_for_are_named(tmp_path, caplog):
    load_weights(Model(), saved(tmp_path, backbone__0__weight=torch.full((4, 3), 1e300, dtype=torch.float64)))
    assert "backbone.0.weight" in caplog.text and "NaN or infinite" in caplog.text
