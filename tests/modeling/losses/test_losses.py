"""Losses against closed forms."""

import math

import pytest
import torch

from fastreid.modeling.losses import cross_entropy_loss, pairwise_circleloss, pairwise_cosface, triplet_loss
from fastreid.modeling.losses.triplet import _weights
from fastreid.modeling.losses.utils import cosine_dist


def test_cross_entropy_of_equal_logits_is_log_of_the_class_count():
    loss = cross_entropy_loss(torch.zeros(3, 7), torch.tensor([0, 3, 6]), eps=0.0)
    assert loss.item() == pytest.approx(math.log(7))


def test_label_smoothing_spreads_eps_over_the_other_classes():
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    log_p = logits.log_softmax(1)[0]
    expected = -(0.9 * log_p[0] + 0.05 * log_p[1] + 0.05 * log_p[2])
    assert cross_entropy_loss(logits, torch.tensor([0]), eps=0.1).item() == pytest.approx(expected.item())


def test_adaptive_smoothing_takes_alpha_times_the_probability_of_the_true_class():
    """Of each image its own."""
    logits, targets = torch.tensor([[1.0, 0.0, 0.5], [0.0, 2.0, -1.0]]), [0, 2]
    expected = 0.0
    for row, target in zip(logits, targets, strict=True):
        log_p = row.log_softmax(0).tolist()
        smooth = 0.2 * math.exp(log_p[target])
        others = sum(log_p) - log_p[target]
        expected -= ((1 - smooth) * log_p[target] + smooth / 2 * others) / 2
    assert cross_entropy_loss(logits, torch.tensor(targets), eps=-1.0).item() == pytest.approx(expected)


def test_losses_are_float32_under_half_precision():
    features = torch.randn(4, 8).bfloat16()
    people = torch.tensor([0, 0, 1, 1])
    assert cross_entropy_loss(features, people, eps=0.0).dtype == torch.float32
    assert triplet_loss(features, people, 0.0, False, True).dtype == torch.float32


@pytest.mark.parametrize("norm_feat", [False, True])
@pytest.mark.parametrize("hard_mining", [False, True])
def test_autocast_does_not_round_distances(norm_feat, hard_mining):
    features, people = 5 + torch.randn(16, 64), torch.arange(16) // 4
    exact = triplet_loss(features, people, 0.0, norm_feat, hard_mining)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(triplet_loss(features, people, 0.0, norm_feat, hard_mining), exact)


# On a line: person 0 at 0 and 3, person 1 at 5 and 6.
LINE, PEOPLE = torch.tensor([[0.0], [3.0], [5.0], [6.0]]), torch.tensor([0, 0, 1, 1])
GAPS = [3 - 5, 3 - 2, 1 - 2, 1 - 3]  # hardest positive - hardest negative, per anchor


def test_soft_margin_hard_triplet():
    expected = sum(math.log1p(math.exp(gap)) for gap in GAPS) / 4
    assert triplet_loss(LINE, PEOPLE, 0.0, False, True).item() == pytest.approx(expected, rel=1e-5)


def test_hard_margin_hard_triplet():
    expected = sum(max(gap + 0.5, 0) for gap in GAPS) / 4
    assert triplet_loss(LINE, PEOPLE, 0.5, False, True).item() == pytest.approx(expected, rel=1e-5)


def test_weighted_mining_of_one_positive_and_one_negative_is_their_distance():
    points, people = torch.tensor([[0.0], [4.0]]), torch.tensor([0, 1])
    # The only positive of an anchor is itself, at (about) zero.
    expected = math.log1p(math.exp(-4))
    loss = triplet_loss(points, people, 0.0, False, False, exact_softmax=True)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("margin", [0.0, 2.5])
def test_weighted_mining_prefers_far_positives_and_near_negatives(margin):
    """AGW's equation 5, written out anchor by anchor."""
    line, people, gaps = [0.0, 3.0, 4.5, 5.0, 6.0], [0, 0, 0, 1, 1], []
    for anchor, person in zip(line, people, strict=True):
        distances = [abs(anchor - other) for other in line]
        positives = [d for d, other in zip(distances, people, strict=True) if other == person]
        negatives = [d for d, other in zip(distances, people, strict=True) if other != person]
        far = [math.exp(d) for d in positives]
        near = [math.exp(-d) for d in negatives]
        positive = sum(w * d for w, d in zip(far, positives, strict=True)) / sum(far)
        negative = sum(w * d for w, d in zip(near, negatives, strict=True)) / sum(near)
        gaps.append(positive - negative)
    expected = sum(max(gap + margin, 0) if margin else math.log1p(math.exp(gap)) for gap in gaps) / 5
    points = torch.tensor(line)[:, None]
    loss = triplet_loss(points, torch.tensor(people), margin, False, False, exact_softmax=True)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def weights_of_agws_code(distances, mask):
    """As fast-reid's and AGW's code has it: masked scores, minus their maximum, and 1e-6 in the denominator."""
    scores = [d if inside else 0.0 for d, inside in zip(distances, mask, strict=True)]
    raw = [math.exp(s - max(scores)) if inside else 0.0 for s, inside in zip(scores, mask, strict=True)]
    return [value / (sum(raw) + 1e-6) for value in raw]


@pytest.mark.parametrize(("scale", "is_close"), [(1.0, True), (8.0, False)])
def test_weighted_mining_by_default_is_that_of_agws_code(scale, is_close):
    """Negatives lose their weight if they are far, which the exact softmax does not have."""
    line, people, gaps = [scale * x for x in (0.0, 1.0, 2.5, 4.0)], [0, 0, 1, 1], []
    for anchor, person in zip(line, people, strict=True):
        distances = [abs(anchor - other) for other in line]
        same = [other == person for other in people]
        far = weights_of_agws_code(distances, same)
        near = weights_of_agws_code([-d for d in distances], [not inside for inside in same])
        gaps.append(sum((w - v) * d for w, v, d in zip(far, near, distances, strict=True)))
    expected = sum(math.log1p(math.exp(gap)) for gap in gaps) / 4
    points = torch.tensor(line)[:, None]
    loss = triplet_loss(points, torch.tensor(people), 0.0, False, False).item()
    assert loss == pytest.approx(expected, rel=1e-4)
    exact = triplet_loss(points, torch.tensor(people), 0.0, False, False, exact_softmax=True).item()
    assert (loss == pytest.approx(exact, rel=1e-3)) == is_close


def test_normalised_features_use_two_minus_two_cosines():
    points = torch.tensor([[1.0, 0.0], [10.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    assert triplet_loss(points, PEOPLE, 0.5, True, True).item() == pytest.approx(0.0, abs=1e-6)  # 0 - 2 + 0.5 < 0
    assert triplet_loss(points, PEOPLE, 2.5, True, True).item() == pytest.approx(0.5)  # 0 - 2 + 2.5


@pytest.mark.parametrize("margin", [0.0, 0.3])
@pytest.mark.parametrize("hard_mining", [True, False])
def test_a_batch_of_one_person_has_no_triplets_but_a_gradient(hard_mining, margin):
    features = torch.randn(3, 4, requires_grad=True)
    loss = triplet_loss(features, torch.zeros(3, dtype=torch.long), margin, False, hard_mining)
    loss.backward()
    assert loss.item() == 0 and features.grad is not None and not features.grad.any()


def test_identical_features_have_finite_gradients():
    features = torch.ones(4, 3, requires_grad=True)
    triplet_loss(features, PEOPLE, 0.0, False, True).backward()
    assert features.grad.isfinite().all()


def by_pairs(embedding, people, partner_logit, stranger_logit):
    """Anchor by anchor, pair by pair."""
    unit = embedding.double() / embedding.double().norm(dim=1, keepdim=True)
    cosines, total = (unit @ unit.T).tolist(), 0.0
    for i, own in enumerate(people):
        partners = [math.exp(partner_logit(cosines[i][j])) for j, who in enumerate(people) if who == own and j != i]
        strangers = [math.exp(stranger_logit(cosines[i][j])) for j, who in enumerate(people) if who != own]
        total += math.log1p(sum(partners) * sum(strangers))
    return total / len(people)


@pytest.mark.parametrize("people", [[0, 0, 1, 1, 1, 2], [0, 0, 0, 0, 0, 0], [0, 1, 2, 3, 4, 5]])
def test_pairwise_losses_are_those_of_their_equations(people):
    torch.manual_seed(0)
    embedding = (3 * torch.randn(6, 8)).requires_grad_()
    m, gamma = 0.25, 16.0
    circle = pairwise_circleloss(embedding, torch.tensor(people), m, gamma)
    expected = by_pairs(
        embedding.detach(), people,
        lambda s: -gamma * max(1 + m - s, 0) * (s - (1 - m)), lambda s: gamma * max(s + m, 0) * (s - m),
    )  # fmt: skip
    assert circle.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    cosface = pairwise_cosface(embedding, torch.tensor(people), m, gamma)
    expected = by_pairs(embedding.detach(), people, lambda s: -gamma * s, lambda s: gamma * (s + m))
    assert cosface.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    (circle + cosface).backward()
    assert embedding.grad.isfinite().all()


@pytest.mark.parametrize("loss", [pairwise_circleloss, pairwise_cosface])
def test_pairwise_losses_bring_people_together_and_stay_float32(loss):
    torch.manual_seed(0)
    embedding, people = torch.randn(12, 8).requires_grad_(), torch.arange(12) // 3
    optimizer = torch.optim.Adam([embedding], lr=0.05)
    first = loss(embedding, people, 0.25, 32.0).item()
    for _ in range(60):
        optimizer.zero_grad()
        loss(embedding, people, 0.25, 32.0).backward()
        optimizer.step()
    assert loss(embedding, people, 0.25, 32.0).item() < 0.1 * first
    assert loss(embedding.bfloat16(), people, 0.25, 32.0).dtype == torch.float32


def test_cosine_distances_are_squared_distances_of_unit_vectors():
    x, y = torch.tensor([[3.0, 0.0], [0.0, 0.5]]), torch.tensor([[1.0, 0.0], [-2.0, 0.0], [1.0, 1.0]])
    diagonal = 2 - math.sqrt(2)
    torch.testing.assert_close(cosine_dist(x, y), torch.tensor([[0.0, 4.0, diagonal], [2.0, 2.0, diagonal]]))


def test_weights_of_an_anchor_do_not_depend_on_the_distances_of_others():
    scores = torch.tensor([[5.0, 4.0], [300.0, 299.0]])
    weights = _weights(scores, torch.ones(2, 2, dtype=torch.bool), is_exact=False)
    torch.testing.assert_close(weights, scores.softmax(dim=1), rtol=1e-4, atol=0)
