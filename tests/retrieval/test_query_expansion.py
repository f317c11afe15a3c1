"""Query expansion compared with its definition on the full matrix of cosines."""

import numpy as np
import pytest

from fastreid.retrieval.query_expansion import aqe, expand


def by_definition(rows, k, alpha):
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit @ unit.T
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    weights = np.maximum(np.take_along_axis(cosines, nearest, 1), 0) ** alpha
    return np.stack([(rows[n] * w[:, None]).mean(axis=0) for n, w in zip(nearest, weights, strict=True)])


@pytest.mark.parametrize("search", ["compiled", "torch"])
@pytest.mark.parametrize(("k", "alpha", "times"), [(5, 3.0, 1), (3, 0.0, 1), (4, 2.5, 3), (1, 3.0, 1)])
def test_expansion_is_that_of_the_definition(search, k, alpha, times):
    rows = np.random.default_rng(0).standard_normal((60, 10)) + 0.5
    expected = rows
    for _ in range(times):
        expected = by_definition(expected, k, alpha)
    query, gallery = aqe(rows[:12], rows[12:], times, k, alpha, search=search)
    np.testing.assert_allclose(np.concatenate([query, gallery]), expected, rtol=1e-4, atol=1e-5)


def test_one_neighbour_is_the_image_itself():
    rows = np.random.default_rng(1).standard_normal((20, 6)).astype(np.float32)
    np.testing.assert_allclose(expand(rows, 1, 3.0), rows, rtol=1e-5)


def test_opposite_neighbours_have_no_weight():
    rows = np.array([[1.0, 0], [-1, 0.1], [-1, -0.1]])
    np.testing.assert_allclose(expand(rows, 3, 2.5)[0], [1 / 3, 0], atol=1e-6)


def test_wrong_arguments_are_named():
    rows = np.eye(4)
    with pytest.raises(ValueError, match="alpha must be at least 0, got -1"):
        expand(rows, 2, -1)
    with pytest.raises(ValueError, match="qe_times must be at least 1"):
        aqe(rows[:2], rows[2:], 0)
    with pytest.raises(ValueError, match="qe_k must be at least 1"):
        aqe(rows[:2], rows[2:], 1, 0)
    with pytest.raises(ValueError, match="number of images, 4, got 5"):
        aqe(rows[:2], rows[2:], 1, 5)


@pytest.mark.parametrize("alpha", ["3", b"3", True, None, [3.0], float("nan"), float("inf"), 1e39])
def test_an_alpha_that_is_not_a_finite_number_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha must be a finite number of at least 0, got "):
        expand(np.eye(4), 2, alpha)


def test_descriptors_that_float32_rounds_to_zeros_are_named():
    rows = np.random.default_rng(0).standard_normal((12, 4))
    short = np.where(np.arange(12)[:, None] == 5, rows * 1e-200, rows)
    for call, side in (
        (lambda: aqe(rows, short, qe_k=3), "gallery image"),
        (lambda: aqe(short, rows, qe_k=3), "query image"),
        (lambda: expand(short, 3, 3.0), "image"),
    ):
        with pytest.raises(ValueError, match=f"of {side} 5 is so short that float32 has no room"):
            call()
    short[8] *= 1e-200
    with pytest.raises(ValueError, match=r"of image 5 is so short that float32 has no room for it \(2 of 12 are\)"):
        expand(short, 3, 3.0)
    zero = np.where(np.arange(12)[:, None] == 5, 0.0, rows)
    assert np.isfinite(expand(zero, 3, 3.0)).all()


@pytest.mark.parametrize(("scale", "how"), [(1e-42, "short"), (1e-40, "short"), (1e39, "long"), (1e300, "long")])
def test_a_scale_at_which_float32_loses_digits_is_refused(scale, how):
    rows = np.random.default_rng(0).standard_normal((12, 4))
    with pytest.raises(ValueError, match=rf"of image 0 is so {how} that float32 has no room for it \(12 of 12 are\)"):
        expand(rows * scale, 3, 3.0)


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**100])
def test_other_scales_change_nothing_but_the_scale(scale):
    rows = np.random.default_rng(0).standard_normal((12, 4))
    np.testing.assert_array_equal(expand(rows * scale, 3, 3.0), expand(rows, 3, 3.0) * np.float32(scale))
