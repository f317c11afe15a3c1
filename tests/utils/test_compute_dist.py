"""fast-reid's build_dist."""

import numpy as np
import pytest
import torch

from fastreid.evaluation import jaccard_graph
from fastreid.retrieval import compiled_engine
from fastreid.utils.compute_dist import build_dist

FEATURES = torch.randn(60, 12, generator=torch.Generator().manual_seed(0))
QUERY, GALLERY = FEATURES[:20], FEATURES[20:]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_plain_distances(metric):
    expected = compiled_engine.distance_rows(QUERY, GALLERY, metric=metric)
    np.testing.assert_allclose(build_dist(QUERY, GALLERY, metric), expected, atol=1e-5)
    np.testing.assert_allclose(build_dist(QUERY, GALLERY), build_dist(QUERY, GALLERY, "euclidean"))


def test_jaccard_is_the_block_of_the_whole_graph():
    graph = jaccard_graph(FEATURES, k1=8, k2=3, max_distance=1.0).tocoo()
    whole = np.ones((60, 60), np.float32)
    whole[graph.row, graph.col] = graph.data
    np.testing.assert_array_equal(build_dist(QUERY, GALLERY, "jaccard", k1=8, k2=3), whole[:20, 20:])


def test_nothing_is_ignored():
    with pytest.raises(TypeError, match="k1"):
        build_dist(QUERY, GALLERY, "cosine", k1=8)
    with pytest.raises(ValueError, match="did you mean 'cosine'"):
        build_dist(QUERY, GALLERY, "cosin")
