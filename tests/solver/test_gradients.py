"""Clipping by norm and by value."""

from unittest import mock

import pytest
import torch

from fastreid.config import get_cfg
from fastreid.engine.nonfinite import gradient_norm
from fastreid.solver import build_gradient_clipper


def cfg_with(**keys):
    cfg = get_cfg()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    for key, value in keys.items():
        cfg.SOLVER.CLIP_GRADIENTS[key] = value
    return cfg


def parameters(*gradients):
    made = [torch.nn.Parameter(torch.zeros(len(g))) for g in gradients]
    for parameter, gradient in zip(made, gradients, strict=True):
        parameter.grad = torch.tensor(gradient)
    return made


def test_norm_scales_all_together():
    a, b = parameters([3.0, 0.0], [4.0])
    build_gradient_clipper(cfg_with(CLIP_VALUE=1.0))(iter([a, b]))
    assert a.grad.tolist() == pytest.approx([0.6, 0.0], abs=1e-5)
    assert b.grad.tolist() == pytest.approx([0.8], abs=1e-5)


def test_norm_leaves_small_gradients_alone():
    (a,) = parameters([0.3, 0.4])
    build_gradient_clipper(cfg_with(CLIP_VALUE=1.0))([a])
    assert a.grad.tolist() == pytest.approx([0.3, 0.4])


@pytest.mark.parametrize("size", [0.5, 1.0, 1.0 + 1e-7, 7.0])
def test_a_known_norm_gives_the_same_bits(size):
    known, unknown = (parameters([0.6 * size, 0.0], [0.8 * size]) for _ in range(2))
    clip = build_gradient_clipper(cfg_with(CLIP_VALUE=1.0))
    clip(unknown)
    with mock.patch("torch.nn.utils.clip_grad_norm_", side_effect=AssertionError("computed once more")):
        clip(known, gradient_norm(known))
    assert all(torch.equal(ours.grad, theirs.grad) for ours, theirs in zip(known, unknown, strict=True))


def test_infinity_norm():
    (a,) = parameters([3.0, 4.0])
    build_gradient_clipper(cfg_with(CLIP_VALUE=1.0, NORM_TYPE=float("inf")))([a])
    assert a.grad.tolist() == pytest.approx([0.75, 1.0], abs=1e-5)


def test_value_cuts_each_entry():
    (a,) = parameters([3.0, -4.0, 0.5])
    build_gradient_clipper(cfg_with(CLIP_TYPE="value", CLIP_VALUE=1.0))([a])
    assert a.grad.tolist() == [1.0, -1.0, 0.5]


def test_off_and_errors():
    assert build_gradient_clipper(get_cfg()) is None
    with pytest.raises(ValueError, match="CLIP_TYPE 'norn'; did you mean 'norm'"):
        build_gradient_clipper(cfg_with(CLIP_TYPE="norn"))
    with pytest.raises(ValueError, match=r"must be above 0, got 0\.0"):
        build_gradient_clipper(cfg_with(CLIP_VALUE=0.0))
