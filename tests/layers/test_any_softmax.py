"""Margin softmaxes against their papers' formulas, one logit at a time."""

import math

import pytest
import torch

from fastreid.layers import SOFTMAX_REGISTRY

COSINES = [[0.5, -0.2, 0.9], [0.1, 0.3, -0.7]]
TARGETS = [2, 0]
S, M = 8.0, 0.25


def circle(cosine, is_true):
    if is_true:
        return S * max(1 + M - cosine, 0) * (cosine - (1 - M))
    return S * max(cosine + M, 0) * (cosine - M)


# (cosine, whether it is of the true class) -> what cross-entropy sees
FORMULAS = {
    "Linear": lambda cosine, is_true: S * cosine,
    "CosSoftmax": lambda cosine, is_true: S * (cosine - M * is_true),
    "ArcSoftmax": lambda cosine, is_true: S * math.cos(math.acos(cosine) + M * is_true),
    "CircleSoftmax": circle,
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("targets", [TARGETS, [-1, 1]], ids=["known", "one of no class"])
def test_formulas(name, targets):
    logits = torch.tensor(COSINES)
    layer = SOFTMAX_REGISTRY.get(name)(3, S, M)
    expected = [[FORMULAS[name](c, column == t) for column, c in enumerate(row)]
                for row, t in zip(COSINES, targets, strict=True)]  # fmt: skip
    torch.testing.assert_close(layer(logits, torch.tensor(targets)), torch.tensor(expected))
    assert torch.equal(logits, torch.tensor(COSINES))  # left as they were
    assert layer.takes_cosines == (name != "Linear")


def test_all_names_are_tested():
    assert set(SOFTMAX_REGISTRY) == set(FORMULAS)


@pytest.mark.parametrize("name", FORMULAS)
def test_gradients_are_finite_at_the_ends(name):
    logits = torch.tensor([[1.0, -1.0], [-1.0, 1.0 + 1e-7]], requires_grad=True)
    SOFTMAX_REGISTRY.get(name)(2, S, M)(logits, torch.tensor([0, 0])).sum().backward()
    assert logits.grad.isfinite().all()


def test_circle_softmax_sends_no_gradient_through_its_weights():
    logits = torch.tensor([[0.4, 0.1]], requires_grad=True)
    SOFTMAX_REGISTRY.get("CircleSoftmax")(2, S, M)(logits, torch.tensor([0])).sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[S * (1 + M - 0.4), S * (0.1 + M)]]))
