"""The mathematics of the re-ID confidence filter, on planted features."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastreid.generation.filters import reid_scores as scoring
from fastreid.generation.filters.reid_scores import COPY, IDENTITY, MARGIN, Thresholds
from fastreid.labeling.centroids import centroids
from fastreid.retrieval.descriptors import FeatureError
from fastreid.utils.errors import ArgumentError

PEOPLE, IMAGES, WIDTH, SPREAD = 40, 25, 64, 0.06
EVERYTHING = Thresholds(identity=-1, margin=-2, copy=2)


def planted(seed=0, images=IMAGES):
    """Images [PEOPLE * images, WIDTH] around a random direction of each person, and their people."""
    rng = torch.Generator().manual_seed(seed)
    centres = F.normalize(torch.randn(PEOPLE, WIDTH, generator=torch.Generator().manual_seed(1)), dim=1)
    people = torch.arange(PEOPLE).repeat_interleave(images)
    return centres[people] + SPREAD * torch.randn(len(people), WIDTH, generator=rng), people


def judged(features, real, people, own, thresholds):
    scores = scoring.reid_scores(features, real[people == own], centroids(real, people), own)
    return scores, scoring.reasons(scores, thresholds)


@pytest.fixture(scope="module")
def real():
    features, people = planted()
    thresholds = scoring.calibrated(
        scoring.genuine_scores(features, people), identity_percentile=5, copy_percentile=99.5, margin=0.0
    )
    return features, people, thresholds


def test_scores_by_hand():
    real = torch.tensor([[1.0, 0, 0], [0.8, 0.6, 0], [0, 1.0, 0], [-1.0, 0, 0]])
    centres = torch.tensor([[0.0, 0, 1], [1.0, 0, 0], [0, 2.0, 0]])
    scores = scoring.reid_scores(torch.tensor([[3.0, 0, 0], [0, 0.6, 0.8]]), real, centres, own=1)
    assert scores.identity.tolist() == pytest.approx([(1 + 0.8 + 0) / 3, (0.6 + 0.36 + 0) / 3], abs=1e-6)
    assert scores.other.tolist() == pytest.approx([0, 0.8], abs=1e-6)
    assert scores.margin.tolist() == pytest.approx([1, -0.8], abs=1e-6)
    assert scores.copy.tolist() == pytest.approx([1, 0.6], abs=1e-6)


def test_a_person_with_few_images_and_a_source_with_one_person():
    own = torch.tensor([[1.0, 0]])
    scores = scoring.reid_scores(torch.tensor([[0.6, 0.8]]), own, own, own=0)
    assert [scores.identity.item(), scores.copy.item()] == pytest.approx([0.6, 0.6])
    assert scores.margin.item() == pytest.approx(1.6)
    with pytest.raises(ArgumentError, match="without real images"):
        scoring.reid_scores(own, own[:0], own, 0)


def test_a_copy_is_dropped_as_a_copy(real):
    features, people, thresholds = real
    copies = features[people == 7].clone()
    scores, reasons = judged(copies, features, people, 7, thresholds)
    assert scores.copy.min() > 1 - 1e-6 and set(reasons) == {COPY}
    one = features[people == 7][:1]
    alone = scoring.reid_scores(one, one, centroids(features, people), 7)
    assert alone.identity.item() == pytest.approx(1, abs=1e-6)


def test_pictures_of_other_people_are_dropped_by_the_margin(real):
    features, people, thresholds = real
    new, owners = planted(seed=5)
    strangers = new[(owners != 7) & (torch.arange(len(owners)) % 5 == 0)]
    scores, reasons = judged(strangers, features, people, 7, thresholds)
    assert scores.margin.max() < 0
    assert reasons.count(MARGIN) >= 0.9 * len(strangers) and "" not in reasons


def test_noise_is_dropped_as_nobody(real):
    features, people, thresholds = real
    noise = torch.randn(500, WIDTH, generator=torch.Generator().manual_seed(9))
    _, reasons = judged(noise, features, people, 7, thresholds)
    assert set(reasons) == {IDENTITY}


@pytest.mark.parametrize("percentile", [5, 20])
def test_held_out_images_are_kept_at_the_calibrated_rate(percentile):
    """tau_id from one half of the held-out images; the rate of the other half, of 2,000, is within 3 %."""
    features, people = planted()
    held, owners = planted(seed=3, images=100)
    is_half = torch.arange(len(held)) % 2 == 0
    genuine = scoring.held_out_scores(held[is_half], owners[is_half], features, people)
    assert len(genuine[0]) == int(is_half.sum())
    thresholds = scoring.calibrated(genuine, identity_percentile=percentile, copy_percentile=100, margin=-2)
    kept = 0
    for person in range(PEOPLE):
        rest = held[~is_half & (owners == person)]
        kept += judged(rest, features, people, person, thresholds)[1].count("")
    assert kept / int((~is_half).sum()) == pytest.approx(1 - percentile / 100, abs=0.03)


def test_leave_one_out_agrees_with_a_plain_loop(real):
    features, people, _ = real
    identity, copy = scoring.genuine_scores(features, people)
    rows = F.normalize(features.double(), dim=1)
    for at in range(len(rows)):
        others = (people == people[at]) & (torch.arange(len(rows)) != at)
        cosines = (rows[others] @ rows[at]).sort(descending=True).values
        assert identity[at].item() == pytest.approx(cosines[:3].mean().item(), abs=1e-6)
        assert copy[at].item() == pytest.approx(cosines[0].item(), abs=1e-6)
    mixed = torch.randperm(len(people), generator=torch.Generator().manual_seed(2))
    assert torch.equal(scoring.genuine_scores(features[mixed], people[mixed])[0].sort().values, identity.sort().values)


def test_people_with_one_image_calibrate_nothing():
    with pytest.raises(ArgumentError, match="cannot be calibrated"):
        scoring.calibrated(
            scoring.genuine_scores(torch.eye(3), torch.arange(3)), identity_percentile=5, copy_percentile=99, margin=0
        )


def test_the_weakest_thresholds_keep_everything(real):
    features, people, _ = real
    everything = torch.cat([features[:50], torch.randn(50, WIDTH), -features[:50]])
    assert set(judged(everything, features, people, 0, EVERYTHING)[1]) == {""}


@pytest.mark.parametrize(("name", "values"), [
    ("identity", np.linspace(-1, 1, 9)), ("margin", np.linspace(-2, 2, 9)), ("copy", np.linspace(2, -1, 9)),
])  # fmt: skip
def test_decisions_are_monotone_in_each_threshold(real, name, values):
    features, people, _ = real
    pictures, _ = planted(seed=8)
    scores = scoring.reid_scores(pictures, features[people == 3], centroids(features, people), 3)
    before = [True] * len(pictures)
    counts = []
    for value in values:
        kept = [not reason for reason in scoring.reasons(scores, Thresholds(**{**vars(EVERYTHING), name: value}))]
        assert all(was or not now for was, now in zip(before, kept, strict=True))
        before = kept
        counts.append(sum(kept))
    assert counts[0] == len(pictures) and counts[-1] == 0


@pytest.mark.parametrize(("quantile", "count", "expected"), [
    (0.75, 200, 150), (0.75, 5, 4), (0.1, 30, 3), (0.07, 100, 7), (1.0, 7, 7), (0.001, 3, 1), (0.5, 0, 0),
])  # fmt: skip
def test_a_quantile_is_rounded_up_exactly(quantile, count, expected):
    assert scoring.kept_count(quantile, count) == expected


def test_ranks_break_ties_by_number():
    identity = torch.tensor([0.5, 0.9, 0.5, 0.1])
    assert scoring.ranks(identity, torch.tensor([8, 3, 2, 0])).tolist() == [3, 1, 2, 4]


def test_scores_do_not_depend_on_batch_or_order(real):
    features, people, _ = real
    pictures, _ = planted(seed=4)
    own, centres = features[people == 2], centroids(features, people)
    whole = torch.stack(list(vars(scoring.reid_scores(pictures, own, centres, 2)).values()))
    mixed = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))
    found = torch.stack(list(vars(scoring.reid_scores(pictures[mixed], own, centres, 2)).values()))
    assert torch.equal(found, whole[:, mixed])
    for at in range(0, 100, 9):
        alone = torch.stack(list(vars(scoring.reid_scores(pictures[at : at + 1], own.flip(0), centres, 2)).values()))
        assert torch.equal(alone[:, 0], whole[:, at])


def test_the_features_of_the_caller_are_not_changed(real):
    features, people, _ = real
    before = features.clone()
    scoring.reid_scores(features[:4], features[people == 0], centroids(features, people), 0)
    assert torch.equal(before, features)


def test_a_feature_that_is_not_finite_is_refused(real):
    features, people, _ = real
    broken = features[:2].clone()
    broken[1, 0] = torch.nan
    with pytest.raises(FeatureError, match="written picture 1"):
        judged(broken, features, people, 0, EVERYTHING)
