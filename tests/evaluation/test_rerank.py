"""fast-reid's `re_ranking` of distance matrices of any type and scale."""

import numpy as np
import pytest
import torch

from fastreid.evaluation.rerank import re_ranking
from fastreid.retrieval.reranking import jaccard_distances
from fastreid.utils.errors import ArgumentError


@pytest.fixture
def distances():
    rows = np.random.default_rng(0).normal(size=(40, 8))
    return np.linalg.norm(rows[:, None] - rows[None], axis=2)


def reranked(everyone):
    return re_ranking(everyone[:10, 10:], everyone[:10, :10], everyone[10:, 10:])


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.int64, np.float16, np.float32, torch.bfloat16])
def test_the_type_of_whole_numbers_changes_nothing(distances, kind):
    whole = np.rint(distances * 15)
    given = torch.from_numpy(whole).to(kind) if isinstance(kind, torch.dtype) else whole.astype(kind)
    assert whole.max() < 128 and whole.max() ** 2 > 255
    np.testing.assert_array_equal(reranked(given), reranked(whole))


@pytest.mark.parametrize("exponent", [-900, -60, 60, 500])
def test_a_scale_changes_nothing(distances, exponent):
    np.testing.assert_array_equal(reranked(np.ldexp(distances, exponent)), reranked(distances))


def test_similarities_are_refused(distances):
    with pytest.raises(ArgumentError, match=r"needs distances, but the least is -.*: give 1 - s for cosine"):
        reranked(-distances)
    np.fill_diagonal(distances, -1e-7)  # rounding
    assert np.isfinite(reranked(distances)).all()


def test_distances_of_no_query():
    assert jaccard_distances(np.zeros((0, 4)), np.ones((3, 4))).shape == (0, 3)
