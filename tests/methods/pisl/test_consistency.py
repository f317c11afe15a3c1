"""Consistency scores: values of the release, limits, and independence of blocks and of the search."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastreid.methods.pisl import consistency
from fastreid.methods.pisl.consistency import KINDS, consistency_scores, neighbor_distances
from fastreid.retrieval import compiled_engine
from fastreid.retrieval.neighbors import nearest_neighbors
from fastreid.utils.errors import ArgumentError
from tests.miniature import ROOT

GOLDEN = np.load(ROOT / "tests/golden/pisl_score.npz")
SEARCHES = ("auto", "torch")


def clusters(num_people=12, each=8, dim=16, parts=2, spread=0.5, seed=0):
    """Features [N, D] of people and their parts [N, P, D]; the last part is noise."""
    generator = torch.Generator().manual_seed(seed)
    people = torch.arange(num_people * each) % num_people
    centres = torch.randn(parts, num_people, dim, generator=generator)
    features = centres[:, people] + spread * torch.randn(parts, len(people), dim, generator=generator)
    features[-1] = torch.randn(len(people), dim, generator=generator)
    return features[0], features.transpose(0, 1).contiguous()


def described(features, k):
    """The definition: each image by itself, k x k distances in float64."""
    features = F.normalize(features.double(), dim=1)
    lists = torch.cdist(features, features).argsort(dim=1, stable=True)[:, 1 : k + 1]
    matrices = [torch.cdist(features[row], features[row]) for row in lists]
    return lists, torch.stack([matrix / (matrix.max() + 1e-8) for matrix in matrices])


def by_definition(whole, parts, k):
    """mmd_raw and jaccard, [N, P] each."""
    sigmas = [*(10.0**power for power in range(-6, 1)), *range(5, 40, 5), *(10.0**power for power in range(2, 7))]
    assert len(sigmas) == 19
    raw, shares, (lists, matrices) = [], [], described(whole, k)
    for part in parts.unbind(1):
        part_lists, part_matrices = described(part, k)
        squared = (matrices - part_matrices).square().sum(dim=(1, 2))
        discrepancy = 38 - 2 * sum(torch.exp(-squared / (2 * sigma)) for sigma in sigmas)
        raw.append((discrepancy / (2 * k)).clamp(0, 1))
        sets = [(set(a.tolist()), set(b.tolist())) for a, b in zip(lists, part_lists, strict=True)]
        shares.append(torch.tensor([len(a & b) / len(a | b) for a, b in sets]))
    return torch.stack(raw, dim=1), torch.stack(shares, dim=1)


# Values of the release


@pytest.mark.parametrize("k", [5, 20])
@pytest.mark.parametrize("search", SEARCHES)
def test_scores_are_those_of_the_release(k, search):
    parts = GOLDEN["score/f_p"].transpose(0, 2, 1)  # there they are [N, D, P]
    scores = consistency_scores(GOLDEN["score/f_g"], parts, k=k, kind="mmd_raw", search=search)
    assert scores.dtype == torch.float32
    np.testing.assert_allclose(scores, GOLDEN[f"score/k{k}"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("k", [5, 20])
@pytest.mark.parametrize(("name", "features"), [("g", GOLDEN["score/f_g"]), ("p0", GOLDEN["score/f_p"][..., 0])])
def test_neighbours_are_those_of_the_release(monkeypatch, k, name, features):
    lists = []
    monkeypatch.setattr(
        consistency, "neighbor_distances", lambda found, *_: lists.append(found.indices) or neighbor_distances(found)
    )
    consistency_scores(features, features[:, None], k=k)
    assert len(lists) == 2
    for found in lists:
        np.testing.assert_array_equal(found, GOLDEN[f"score/neighbours_{name}_k{k}"])


def test_the_score_of_a_squared_distance_is_that_of_the_release():
    discrepancy = consistency.squared_discrepancy(torch.from_numpy(GOLDEN["score/d2"]))
    np.testing.assert_allclose(discrepancy / 40, GOLDEN["score/of_d2_k20"], rtol=0, atol=1e-6)
    of_one = consistency.squared_discrepancy(torch.ones(1, dtype=torch.float64)) / 40
    assert of_one.item() == pytest.approx(0.332, abs=5e-4)
    many = consistency.squared_discrepancy(torch.logspace(-8, 2.58, 100, dtype=torch.float64))
    assert (many.diff() > 0).all() and 0 < many[0] and many[-1] / 40 < 0.7525


# The definition


@pytest.mark.parametrize("k", [1, 6, 20])
@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_scores_are_those_of_the_definition(k, spread):
    whole, parts = clusters(spread=spread)
    raw, share = by_definition(whole, parts, k)
    assert (consistency_scores(whole, parts, k=k, kind="mmd_raw") - raw).abs().max() < 1e-5
    assert (consistency_scores(whole, parts, k=k, kind="mmd_inv") - (1 - raw)).abs().max() < 1e-5
    if k == 20:  # with fewer neighbours the scale of the others ends below the greatest discrepancies
        exponential = consistency_scores(whole, parts, k=k, kind="mmd_exp")
        assert (exponential - (-40 * raw).exp()).abs().max() < 1e-5
    assert (consistency_scores(whole, parts, k=k, kind="jaccard") - share).abs().max() < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_equal_neighbours_agree_and_noise_agrees_less(kind):
    whole, parts = clusters()
    scores = consistency_scores(whole, torch.cat([whole[:, None], parts], dim=1), k=8, kind=kind)
    agreement = 0 if kind == "mmd_raw" else 1
    assert (scores[:, 0] == agreement).all() and (scores[:, 1] == agreement).all()
    assert scores.min() >= 0 and scores.max() <= 1
    assert (scores[:, 2] - agreement).abs().min() > 0.1


def test_neither_length_nor_a_rotation_of_features_matters():
    whole, parts = clusters()
    turned = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(1)))[0]
    scores = consistency_scores(whole, parts, k=8)
    lengths = torch.linspace(0.1, 30, len(whole))[:, None]
    assert (consistency_scores(whole * lengths, parts * lengths[:, None], k=8) - scores).abs().max() < 1e-4
    assert (consistency_scores(whole @ turned, parts, k=8) - scores).abs().max() < 1e-4
    as_arrays = consistency_scores(whole.numpy(), parts.double().numpy(), k=8)
    assert (as_arrays - scores).abs().max() < 1e-5


@pytest.mark.parametrize("is_compiled", [True, False])
def test_blocks_and_kernels_change_nothing(monkeypatch, is_compiled):
    whole, parts = clusters()
    scores = {kind: consistency_scores(whole, parts, k=8, kind=kind) for kind in KINDS}
    monkeypatch.setattr(consistency, "_LISTS", 5)
    if not is_compiled:
        monkeypatch.setattr(compiled_engine, "is_available", lambda: False)
    for kind, expected in scores.items():
        found = consistency_scores(whole, parts, k=8, kind=kind, num_threads=1)
        assert (found - expected).abs().max() < (1e-9 if is_compiled else 1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same(monkeypatch):
    whole, parts = clusters()
    monkeypatch.setattr(consistency, "_COPIED_NUMBERS", 1000)
    found = consistency_scores(whole, parts, k=8, device="cuda")
    assert (found - consistency_scores(whole, parts, k=8)).abs().max() < 1e-4


def test_without_parts_there_are_no_scores():
    whole, parts = clusters()
    assert consistency_scores(whole, parts[:, :0], k=8).shape == (96, 0)


# Mistakes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "mmd"}, r"unknown consistency score .PISL.PSC.SCORE. 'mmd'; did you mean 'mmd_raw' or 'mmd_inv'"),
        ({"k": 96}, r"96 images have fewer than 96 neighbours each; lower k .PISL.PSC.KNN."),
        ({"k": 0}, "k must be"),
        ({"part_features": torch.zeros(96, 4)}, r"must be \[N, D\] .* got \[96, 16\] and \[96, 4\]"),
        ({"part_features": torch.zeros(95, 2, 4)}, r"got \[96, 16\] and \[95, 2, 4\]"),
        ({"search": "fast"}, "unknown neighbour search"),
    ],
)
def test_mistakes_are_named(change, said):
    whole, parts = clusters()
    with pytest.raises((ArgumentError, ValueError), match=said):
        consistency_scores(**{"global_features": whole, "part_features": parts} | change)


def test_autocast_does_not_change_scores():
    whole, parts = clusters()
    expected = consistency_scores(whole, parts, k=5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(consistency_scores(whole, parts, k=5), expected)


@pytest.mark.parametrize("kind", ["mmd_inv", "jaccard"])
def test_neighbours_that_were_searched_before_give_the_same_scores(kind):
    whole, parts = clusters()
    found = nearest_neighbors(whole, 30)
    given = consistency_scores(whole, parts, k=10, kind=kind, nearest=found)
    assert torch.equal(given, consistency_scores(whole, parts, k=10, kind=kind))
    with pytest.raises(ArgumentError, match="96 images need 11 neighbours of each, got 10 of 96"):
        consistency_scores(whole, parts, k=10, kind=kind, nearest=nearest_neighbors(whole, 10))
