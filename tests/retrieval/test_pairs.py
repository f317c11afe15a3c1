"""Products of pairs of rows: any length, with and without compiled kernels."""

import numpy as np
import pytest

from fastreid.retrieval import compiled_engine
from fastreid.retrieval.pairs import products_in_lists, products_of_pairs


@pytest.mark.parametrize("dim", [1, 16, 45, 530])  # 530: numbers are read in three parts
@pytest.mark.parametrize("k", [1, 2, 5, 8])
@pytest.mark.parametrize("is_compiled", [True, False])
def test_products_in_lists_are_those_of_their_pairs(monkeypatch, dim, k, is_compiled):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((40, dim), dtype=np.float32)
    lists = rng.integers(0, 40, (9, k), dtype=np.int32)
    first, second = np.triu_indices(k, 1)
    centre = np.zeros(dim, dtype=np.float32)
    pairs = [np.ascontiguousarray(lists[:, side]).ravel() for side in (first, second)]
    expected = products_of_pairs(rows, centre, *pairs, 1).reshape(9, len(first))
    if not is_compiled:
        monkeypatch.setattr(compiled_engine, "is_available", lambda: False)
    found = products_in_lists(rows, lists, 2)
    assert found.dtype == np.float32 and found.shape == expected.shape
    if is_compiled and compiled_engine.is_available():
        assert found.tobytes() == expected.tobytes()
    np.testing.assert_allclose(found, expected, atol=1e-5 + 1e-7 * dim)  # sums of `dim` products, in another order
