"""Figures of quality, on planted features and rows."""

import itertools
import math
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastreid.generation import quality
from fastreid.utils.checkpoint_file import WeightsError
from fastreid.utils.errors import ArgumentError


def features(seed=0, people=5, images=6, width=16, spread=0.3):
    rng = torch.Generator().manual_seed(seed)
    centres = torch.randn(people, width, generator=torch.Generator().manual_seed(9))
    owners = torch.arange(people).repeat_interleave(images)
    return centres[owners] + spread * torch.randn(len(owners), width, generator=rng), owners


def pairs(rows, people, wanted):
    unit = F.normalize(rows.double(), dim=1)
    return np.mean([
        float(unit[a] @ unit[b])
        for a, b in itertools.combinations(range(len(unit)), 2)
        if bool(people[a] == people[b]) == wanted
    ])  # fmt: skip


def test_the_gap_is_that_of_all_pairs():
    rows, people = features()
    rows, people = rows[2:] * 7, people[2:] * 3 + 1  # people of unequal sizes, numbers with holes, other lengths
    found = quality.similarity_gap(rows, people)
    assert found.same == pytest.approx(pairs(rows, people, True))
    assert found.other == pytest.approx(pairs(rows, people, False))
    assert found.gap == pytest.approx(found.same - found.other) and found.diversity == pytest.approx(1 - found.same)


def test_the_gap_of_planted_features():
    two = torch.tensor([[1.0, 0], [1, 0], [0, 2], [0, 2]])
    assert quality.similarity_gap(two, torch.tensor([0, 0, 1, 1])) == quality.SimilarityGap(1.0, 0.0)
    assert quality.similarity_gap(two, torch.tensor([0, 1, 0, 1])) == quality.SimilarityGap(0.0, 0.5)
    alone = quality.similarity_gap(two, torch.zeros(4, dtype=torch.int64))
    assert alone.same == pytest.approx(1 / 3) and math.isnan(alone.other)


def test_diversity_by_person():
    rows, people = torch.tensor([[1.0, 0], [0, 1], [1, 0], [1, 0], [1, 1]]), torch.tensor([3, 3, 1, 1, 2])
    assert quality.diversity_by_person(rows, people) == {1: pytest.approx(0), 3: pytest.approx(1)}


def test_identity_similarity_is_that_of_all_pairs():
    written, people = features(seed=1)
    real, owners = features(seed=2, images=4)
    people = torch.where(people == 4, 9, people)  # a person without real images
    found = quality.identity_similarity(written, people, real, owners)
    unit, others = F.normalize(written.double(), dim=1), F.normalize(real.double(), dim=1)
    same, other = [], []
    for row, person in zip(unit, people, strict=True):
        if person != 9:
            same.append(float((others[owners == person] @ row).mean()))
            other.append(float((others[owners != person] @ row).mean()))
    assert found.same == pytest.approx(np.mean(same)) and found.other == pytest.approx(np.mean(other))
    assert found.gap > 0.3


def test_attribute_entropy_in_bits():
    rows = [{"upper": colour, "bag": "a bag"} for colour in ("red", "blue", "red", "green")]
    assert quality.attribute_entropy(rows) == {"bag": 0.0, "upper": pytest.approx(1.5)}
    assert quality.attribute_entropy([{"hat": "a cap"}, {}]) == {"hat": 1.0}
    assert quality.attribute_entropy([]) == {}


def test_keep_rates_sum_to_one():
    reasons = ["", "", "reid.margin", "reid.copy", "blur", "near_copy.kept", "unreadable", ""]
    rows = [{"kept": not reason, "reason": reason} for reason in reasons]
    found = quality.keep_rates(rows)
    assert found == {"kept": 3 / 8, "blur": 1 / 8, "near_copy": 1 / 8, "reid": 2 / 8, "unreadable": 1 / 8}
    assert list(found)[0] == "kept" and sum(found.values()) == 1
    with pytest.raises(ArgumentError, match="no picture was judged"):
        quality.keep_rates([])


def test_frechet_distance_of_two_normal_distributions():
    """|m1 - m2|^2 + tr(S1 + S2 - 2 sqrt(S1 S2)), of samples with exactly these moments."""
    rng = np.random.default_rng(0)
    sample = rng.normal(size=(500, 4))
    sample -= sample.mean(0)
    sample = sample @ np.linalg.inv(np.linalg.cholesky(np.cov(sample.T))).T  # covariance 1
    real, written = torch.from_numpy(sample), torch.from_numpy(3 * sample + 2)
    assert quality.frechet_distance(real, written) == pytest.approx(4 * 4 + 4 * (1 + 9 - 2 * 3), rel=1e-4)
    assert quality.frechet_distance(real, real) == pytest.approx(0, abs=1e-4)


def test_kernel_distance_is_near_0_for_one_distribution_only():
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 200, 8, generator=rng)
    state = torch.random.get_rng_state()
    same, other = quality.kernel_distance(a, b), quality.kernel_distance(a, b + 1)
    assert abs(same) < 0.2 < 1 < other
    assert quality.kernel_distance(a, b + 1) == other and quality.kernel_distance(a[:20], b) < 1
    assert torch.equal(torch.random.get_rng_state(), state)


def test_without_weights_or_packages_inception_is_left_out(tmp_path, caplog, monkeypatch):
    assert quality.inception("") is None and quality.inception(str(tmp_path / "none.pth")) is None
    assert "no file is given): FID and KID are left out" in caplog.text and "there is no file" in caplog.text
    weights = tmp_path / "weights.pth"
    weights.touch()
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    assert quality.inception(str(weights)) is None
    assert "torch_fidelity" in caplog.text


def test_without_torchmetrics_both_distances_are_left_out(caplog, monkeypatch):
    for name in ("fid", "kid"):
        monkeypatch.setitem(sys.modules, f"torchmetrics.image.{name}", None)
    features = torch.randn(4, 2)
    assert quality.frechet_distance(features, features) is None and quality.kernel_distance(features, features) is None
    assert "(FID) are left out" in caplog.text and "(KID) are left out" in caplog.text


def test_inception_is_built_from_the_file_of_its_weights(tmp_path, monkeypatch):
    """torch-fidelity is replaced; the network itself is tested by torchmetrics."""
    from torchmetrics.image import fid

    weights = tmp_path / "weights.pth"
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    torch.save({"code": print}, weights)
    with pytest.raises(WeightsError, match="weights.pth"):
        quality.inception(str(weights))
    torch.save({"fc.bias": torch.zeros(2)}, weights)
    made = []
    monkeypatch.setattr(fid, "NoTrainInceptionV3", lambda *args, **options: made.append((args, options)) or "network")
    assert quality.inception(str(weights)) == "network"
    assert made == [(("inception-v3-compat", ["2048"]), {"feature_extractor_weights_path": str(weights)})]
