"""The losses of PISL at their limits."""

import math

import pytest
import torch
import torch.nn.functional as F

from fastreid.methods.pisl.losses import label_smoothed_loss, part_contrast, refined_targets, score_smoothed_loss
from fastreid.modeling.losses import triplet_loss


@pytest.fixture
def part_logits():
    return torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(3)).requires_grad_()


TARGETS = torch.tensor([0, 3, 1, 1, 2])


def test_refined_labels(part_logits):
    scores = torch.rand(5, 3)
    hard = F.one_hot(TARGETS, 4).float()
    torch.testing.assert_close(refined_targets(TARGETS, part_logits, scores, 1.0), hard)
    refined = refined_targets(TARGETS, part_logits, scores, 0.5)
    torch.testing.assert_close(refined.sum(dim=1), torch.ones(5))
    assert not refined.requires_grad
    equal = refined_targets(TARGETS, part_logits, torch.full((5, 3), 0.3), 0.0)
    torch.testing.assert_close(equal, part_logits.detach().softmax(dim=2).mean(dim=1))
    weights = scores.softmax(dim=1)
    ensemble = torch.einsum("bp,bpk->bk", weights, part_logits.detach().softmax(dim=2))
    torch.testing.assert_close(refined, 0.5 * hard + 0.5 * ensemble)


def test_smoothing_by_scores(part_logits):
    ones, zeros = torch.ones(5, 3), torch.zeros(5, 3)
    plain = torch.stack([F.cross_entropy(part_logits[:, part], TARGETS) for part in range(3)]).mean()
    torch.testing.assert_close(score_smoothed_loss(part_logits, TARGETS, ones), plain)
    uniform = torch.full((5, 3, 4), 0.25)
    divergence = (uniform * (uniform.log() - part_logits.log_softmax(dim=2))).sum(dim=2).mean()
    torch.testing.assert_close(score_smoothed_loss(part_logits, TARGETS, zeros), divergence)
    assert divergence > 0
    torch.testing.assert_close(score_smoothed_loss(torch.zeros(5, 3, 4), TARGETS, zeros), torch.zeros(()))


def test_smoothing_of_labels(part_logits):
    log_probs = part_logits.log_softmax(dim=2)
    chosen = log_probs[torch.arange(5)[:, None], torch.arange(3)[None], TARGETS[:, None]]
    expected = -(0.9 * chosen + 0.1 * log_probs.mean(dim=2)).mean()
    torch.testing.assert_close(label_smoothed_loss(part_logits, TARGETS, 0.1), expected)


def test_a_soft_triplet_of_equal_distances():
    corners = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])  # all but the last are equally far apart
    loss = triplet_loss(corners[:3], torch.tensor([0, 0, 1]), 0.0, False, True)
    # The third has itself alone as its positive.
    alone = math.log1p(math.exp(-math.sqrt(2)))
    assert loss.item() == pytest.approx((2 * math.log(2) + alone) / 3, abs=1e-5)


def test_the_contrast_of_parts_prefers_parts_that_tell_clusters_apart():
    targets = torch.tensor([0, 0, 1, 1])
    apart = F.one_hot(targets, 4).float() + 0.01 * torch.randn(4, 4)
    mixed = F.one_hot(1 - torch.tensor([0, 1, 0, 1]), 4).float() + 0.01 * torch.randn(4, 4)
    parts = torch.stack([apart, mixed], dim=1).requires_grad_()
    loss, weights = part_contrast(parts, targets, 0.07)
    assert weights[0] > 0.99 and weights.sum().item() == pytest.approx(1)
    loss.backward()
    assert parts.grad.isfinite().all()
