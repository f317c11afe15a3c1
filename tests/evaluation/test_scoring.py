"""Scoring of a protocol: names of the figures, metrics, and errors."""

import numpy as np
import pytest
import torch

from fastreid.evaluation import scoring
from fastreid.evaluation.scoring import score
from fastreid.evaluation.scoring_options import Scoring
from fastreid.retrieval import torch_engine
from fastreid.retrieval.torch_engine import build_dist
from fastreid.structures import PersonImage

QUERY = [PersonImage("q0", 0, 0), PersonImage("q1", 1, 0), PersonImage("q2", 2, 0)]
GALLERY = [PersonImage(f"g{i}", person, 1) for i, person in enumerate((0, 1, 1, 5))]
EYE = torch.eye(4)


def test_names_and_values():
    features_g = torch.stack([EYE[0], EYE[0] + EYE[1], EYE[1], EYE[3]])
    result = score(EYE[[0, 1, 2]], features_g, QUERY, GALLERY)
    assert list(result.metrics) == [
        "Rank-1", "Rank-5", "Rank-10", "mAP", "mINP", "metric", "valid_queries"
    ]  # fmt: skip
    assert result.metrics["Rank-1"] == result.metrics["mAP"] == result.metrics["metric"] == 100.0
    assert result.metrics["valid_queries"] == 2  # person 2 is not in the gallery
    assert result.distances_of(0).dtype == np.float32 and result.distances_of(2).shape == (4,)
    assert len(result.cmc) == 50
    assert result.chance["Rank-1"] == pytest.approx(100 * (1 / 4 + 2 / 4) / 2)


def test_recalls_are_shares_of_queries_with_a_match_so_far():
    torch.manual_seed(0)
    features = torch.randn(60, 5)
    images = [PersonImage(str(i), i % 12, i) for i in range(60)]  # each its own camera: only the query is left out
    result = score(features, features, images, images, Scoring(recalls=(1, 4, 55, 10**12)))
    cosines = torch.nn.functional.normalize(features) @ torch.nn.functional.normalize(features).T
    order = cosines.fill_diagonal_(-2).argsort(dim=1, descending=True)
    right = order % 12 == torch.arange(60)[:, None] % 12
    for k in (1, 4, 55):
        assert result.metrics[f"Recall@{k}"] == pytest.approx(100 * right[:, :k].any(dim=1).double().mean().item())
    assert result.metrics[f"Recall@{10**12}"] == 100  # without a curve of that length
    assert result.metrics["Recall@1"] == result.metrics["Rank-1"] < result.metrics["Recall@4"]


def test_metric_is_the_mean_of_map_and_rank1():
    result = score(EYE[[0, 1, 2]], EYE[[1, 0, 1, 0]], QUERY, GALLERY)
    figures = result.metrics
    assert 0 < figures["metric"] < 100
    assert figures["metric"] == (figures["mAP"] + figures["Rank-1"]) / 2


def test_distances_in_blocks_equal_plain_formulas(monkeypatch):
    monkeypatch.setattr(torch_engine, "SEGMENT_ROWS", 3)
    torch.manual_seed(0)
    query, gallery = torch.randn(7, 16), torch.randn(5, 16)
    kept = query.clone()
    euclidean = torch.cdist(query.double(), gallery.double()).square().numpy()
    cosine = 1 - torch.cosine_similarity(query[:, None], gallery[None], dim=2).numpy()
    np.testing.assert_allclose(build_dist(query, gallery, "euclidean"), euclidean, rtol=1e-5)
    np.testing.assert_allclose(build_dist(query, gallery, "cosine"), cosine, atol=1e-6)
    assert torch.equal(query, kept)  # never normalised in place


def test_errors_say_what_is_wrong():
    good = EYE[[0, 1, 2]]
    with pytest.raises(ValueError, match="'cosin'; did you mean 'cosine'"):
        score(good, EYE, QUERY, GALLERY, Scoring(metric="cosin"))
    with pytest.raises(ValueError, match="2 query descriptors for 3 query images"):
        score(good[:2], EYE, QUERY, GALLERY)
    with pytest.raises(ValueError, match=r"\[Q, D\] and \[G, D\]"):
        score(good[:, :2], EYE, QUERY, GALLERY)
    with pytest.raises(ValueError, match="max_rank must be from 10 to"):
        score(good, EYE, QUERY, GALLERY, Scoring(max_rank=5))
    broken = EYE.clone()
    broken[2, 1] = float("nan")
    with pytest.raises(ValueError, match="gallery image g2 is not finite"):
        score(good, broken, QUERY, GALLERY)


def test_single_shots_of_queries_that_have_one_match():
    """The right image of the first query is drawn and nearest; that of the second is behind those of two people."""
    query = [PersonImage("q0", 0, 0), PersonImage("q1", 1, 0)]
    gallery = [PersonImage(f"g{person}", person, 1) for person in range(4)]
    near = torch.tensor([[1.0, 0.5, 0.2, 0.1], [0.9, 0.3, 0.8, 0.2]])  # products with unit vectors
    result = score(near, torch.eye(4), query, gallery, Scoring(single_shot=True))
    assert result.cmc[:4].tolist() == [0.5, 0.5, 1.0, 1.0]


def test_features_are_scored_by_this_process_alone(monkeypatch):
    monkeypatch.setattr(scoring.comm, "get_world_size", lambda: 2)
    people = [image.person for image in QUERY], [image.person for image in GALLERY]
    found = scoring.score_features(EYE[[0, 1, 2]], EYE[[1, 0, 1, 0]], *people, [0] * 3, [1] * 4)
    monkeypatch.undo()
    assert found.metrics == score(EYE[[0, 1, 2]], EYE[[1, 0, 1, 0]], QUERY, GALLERY).metrics
