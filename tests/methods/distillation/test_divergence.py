"""Divergences of logits: their formula, their gradient, and where they are zero."""

import math

import pytest
import torch

from fastreid.methods.distillation.divergence import kl_divergence, symmetric_divergence

T = 4.0


def logits():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 7, generator=generator), torch.randn(5, 7, generator=generator)


def by_hand(p_of, q_of):
    """KL(p || q) of softened probabilities, as sums in Python, times T^2."""
    total = 0.0
    for p_row, q_row in zip(p_of.tolist(), q_of.tolist(), strict=True):
        p, q = ([math.exp(x / T) for x in row] for row in (p_row, q_row))
        p, q = ([x / sum(row) for x in row] for row in (p, q))
        total += sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
    return total * T * T / len(p_of)


def test_values():
    student, teacher = logits()
    there, back = by_hand(teacher, student), by_hand(student, teacher)
    assert kl_divergence(student, teacher, T).item() == pytest.approx(there, rel=1e-5)
    assert symmetric_divergence(student, teacher, T).item() == pytest.approx((there + back) / 2, rel=1e-5)


@pytest.mark.parametrize("divergence", [kl_divergence, symmetric_divergence])
def test_equal_probabilities_have_no_divergence(divergence):
    student, _ = logits()
    assert divergence(student, student + 3, T).item() == pytest.approx(0, abs=1e-6)


def test_half_precision_is_computed_in_float32():
    student, teacher = logits()
    found = symmetric_divergence((student * 50).bfloat16(), (teacher * 50).bfloat16(), 16.0)
    assert found.dtype == torch.float32 and found.isfinite()


def test_the_gradient_leads_to_the_teacher():
    student, teacher = logits()
    student.requires_grad_()
    before = kl_divergence(student, teacher, T)
    (step,) = torch.autograd.grad(before, student)
    assert kl_divergence(student - step, teacher, T) < before
