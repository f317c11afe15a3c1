"""Blocks of distances: every row once, whatever the number of queries, gallery images and rows at once."""

import numpy as np
import pytest

from fastreid.retrieval import distances as distances_module
from fastreid.retrieval.distances import MatrixDistances, rows_within
from fastreid.retrieval.histogram import PairCounter
from fastreid.retrieval.matches import match_labels
from fastreid.retrieval.torch_engine import TorchDistances


def in_blocks(distances, rows_at_once):
    distances.rows_at_once = rows_at_once
    return distances


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (5, 6)])
@pytest.mark.parametrize("rows_at_once", [1, 2, 4, 100])
def test_a_row_is_that_of_the_matrix(shape, rows_at_once):
    matrix = np.random.default_rng(0).random(shape)
    distances = in_blocks(MatrixDistances(matrix), rows_at_once)
    np.testing.assert_array_equal([distances.row(query) for query in range(shape[0])], matrix)
    query, gallery = (np.random.default_rng(n).standard_normal((n, 4)) for n in shape)
    computed = in_blocks(TorchDistances(query, gallery), rows_at_once)
    whole = TorchDistances(query, gallery).rows(0, shape[0])
    np.testing.assert_allclose([computed.row(number) for number in range(shape[0])], whole, atol=1e-6)


def test_blocks_without_a_wanted_query_are_skipped():
    distances = in_blocks(MatrixDistances(np.arange(14.0).reshape(7, 2)), 2)
    assert [(first, len(block)) for first, block in distances.blocks()] == [(0, 2), (2, 2), (4, 2), (6, 1)]
    wanted = np.array([False, True, False, False, False, False, True])
    assert [(first, block[0, 0]) for first, block in distances.blocks("", wanted)] == [(0, 0), (6, 12)]


@pytest.mark.parametrize(
    ("shape", "description", "is_logged"),
    [((11, 2), "ranking", True), ((2, 11), "ranking", True), ((5, 4), "ranking", False), ((11, 2), "", False)],
)
def test_progress_is_logged_of_many_distances(shape, description, is_logged, monkeypatch):
    logged = []
    monkeypatch.setattr(distances_module, "LOGGED_PAIRS", 20)
    monkeypatch.setattr(distances_module, "progress", lambda items, *rest: logged.append(rest) or items)
    blocks = list(in_blocks(MatrixDistances(np.ones(shape)), 1).blocks(description))
    assert len(blocks) == shape[0] and logged == ([(shape[0], description)] if is_logged else [])


def test_a_distance_of_a_later_block_that_is_not_finite_is_named():
    matrix = np.ones((7, 2))
    matrix[5, 1] = np.nan
    with pytest.raises(ValueError, match="query row 5 to gallery image 1 is nan"):
        list(in_blocks(MatrixDistances(matrix), 2).blocks())


def test_distances_to_one_person_and_pairs_without_junk():
    matrix = np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8], [0.9, 1.0, 1.1, 1.2]])
    matches = match_labels([1, 2, 1], [1, 1, 2, -1], [0, 0, 1], [1, 0, 0, 1])
    distances = in_blocks(MatrixDistances(matrix), 2)
    positive, removed = distances.same_person(matches)
    assert positive.tolist() == [0.1, 1.0] and removed.tolist() == [0.2, 0.7, 0.9]
    counter = PairCounter([0.35, 1.05], (0.0, 2.0), num_bins=2)
    distances.count_pairs(counter, matches)  # without the last column
    assert [counts.tolist() for counts in counter.read()] == [[7, 2], [3, 8], [0, 0]]
    rankings = distances.rank_each([matches, matches.among(np.array([False, True, True]), np.ones(4, bool))])
    assert [ranking.first_match_rank.tolist() for ranking in rankings] == [[1, 0, 1], [0, 0, 1]]


def test_bounds_of_a_matrix():
    assert MatrixDistances([[3.0, -2.0], [0.5, 1.0]]).bounds == (-2.0, 3.0)
    assert in_blocks(MatrixDistances([[3.0, -2.0], [0.5, 4.0]]), 1).bounds == (-2.0, 4.0)
    assert MatrixDistances(np.zeros((0, 4))).bounds == (0.0, 1.0)
    for equal in (0.0, 5.0, -1e9):
        low, high = MatrixDistances(np.full((2, 3), equal)).bounds
        assert low == equal and np.float32(low) < np.float32(high) <= equal + 2e-6 * max(1, abs(equal))


def test_the_matrix_of_the_caller_cannot_be_written_to():
    matrix = np.ones((2, 3))
    assert not MatrixDistances(matrix).rows(0, 2).flags.writeable and matrix.flags.writeable
    with pytest.raises(ValueError, match=r"must be a matrix \[Q, G\], got shape \[3\]"):
        MatrixDistances(np.ones(3))


def test_rows_that_fit_into_a_budget():
    assert rows_within(1, 2**18, 100) == 4
    assert rows_within(1, 2**18, 3) == 3  # as many as there are
    assert rows_within(1, 2**30, 100) == 1  # at least one
    assert rows_within(float("inf"), 0, 100) == 100
    assert MatrixDistances(np.ones((50, 64)), memory_budget=1 / 64).rows_at_once == 16  # of 16 bytes a distance
