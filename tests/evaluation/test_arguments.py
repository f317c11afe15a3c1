"""Invalid arguments raise an error that names them, and never reach compiled code."""

import numpy as np
import pytest
import torch

from fastreid.evaluation import aqe, evaluate_rank, match_labels, nearest_neighbors, rank_features, rank_queries
from fastreid.evaluation.roc import roc_curve
from fastreid.evaluation.scoring_options import Expansion, Reranking, Scoring
from fastreid.retrieval.compiled_engine import distance_rows, is_available
from fastreid.retrieval.distances import MatrixDistances
from fastreid.retrieval.query_expansion import expand
from fastreid.retrieval.reranking import jaccard_distances, jaccard_graph
from fastreid.utils.errors import ArgumentError, UserError

RANDOM = np.random.default_rng(0)
QUERY, GALLERY = (RANDOM.standard_normal((rows, 8)).astype(np.float32) for rows in (6, 20))
DISTANCES = (1 - QUERY @ GALLERY.T).astype(np.float32)
IDS = (np.arange(6) % 3, np.arange(20) % 3, np.zeros(6, int), np.ones(20, int))

THREADED = {
    "nearest_neighbors": lambda n: nearest_neighbors(GALLERY, 3, num_threads=n),
    "nearest_neighbors, torch": lambda n: nearest_neighbors(GALLERY, 3, search="torch", num_threads=n),
    "rank_features": lambda n: rank_features(QUERY, GALLERY, *IDS, num_threads=n),
    "distance_rows": lambda n: distance_rows(QUERY, GALLERY, num_threads=n),
    "rank_queries": lambda n: rank_queries(DISTANCES, *IDS, num_threads=n),
    "rank_queries, NumPy": lambda n: rank_queries(DISTANCES, *IDS, use_cython=False, num_threads=n),
    "jaccard_graph": lambda n: jaccard_graph(GALLERY, k1=3, k2=2, num_threads=n),
    "roc_curve": lambda n: roc_curve(MatrixDistances(DISTANCES), match_labels(*IDS), num_threads=n),
}
needs_kernels = pytest.mark.skipif(not is_available(), reason="the extension is not built")


@needs_kernels
@pytest.mark.parametrize("name", THREADED)
@pytest.mark.parametrize("number", [-1, -(2**31), 4097, 2**40, 1.5, "2", True])
def test_numbers_of_threads(name, number):
    with pytest.raises(ArgumentError, match="num_threads"):
        THREADED[name](number)


@needs_kernels
@pytest.mark.parametrize("name", THREADED)
def test_zero_and_none_are_torchs_number_of_threads(name):
    for number in (0, None, 1, 3):
        THREADED[name](number)


COUNTED = {
    "k": lambda n: nearest_neighbors(GALLERY, n),
    "k of expand": lambda n: expand(GALLERY, n, 3.0),
    "qe_times": lambda n: aqe(QUERY, GALLERY, qe_times=n),
    "qe_k": lambda n: aqe(QUERY, GALLERY, qe_k=n),
    "k1": lambda n: jaccard_distances(QUERY, GALLERY, k1=n),
    "k2": lambda n: jaccard_distances(QUERY, GALLERY, k2=n),
    "k1 of a graph": lambda n: jaccard_graph(GALLERY, k1=n),
    "max_rank": lambda n: evaluate_rank(DISTANCES, *IDS, max_rank=n),
    "max_rank of Scoring": lambda n: Scoring(max_rank=n),
    "TEST.AQE": lambda n: Scoring(expansion=Expansion(k=n)),
    "TEST.DBA": lambda n: Scoring(augmentation=Expansion(times=n)),
    "TEST.RERANK": lambda n: Scoring(reranking=Reranking(k1=n)),
}


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("number", [2.5, 2.0, True, "5", None, 0, -3])
def test_counts(name, number):
    with pytest.raises(ArgumentError, match=name.split(" ")[0]):
        COUNTED[name](number)


@pytest.mark.parametrize("alpha", [np.nan, np.inf, -1.0, "3", None, 1e300])
def test_powers_of_cosines(alpha):
    for expanded in (lambda: aqe(QUERY, GALLERY, alpha=alpha), lambda: expand(GALLERY, 3, alpha)):
        with pytest.raises(ArgumentError, match="alpha must be"):
            expanded()


def test_powers_of_cosines_in_scoring():
    for alpha in (np.nan, np.inf):
        with pytest.raises(ArgumentError, match="ALPHA"):
            Scoring(expansion=Expansion(alpha=alpha))


@pytest.mark.parametrize("device", ["meta", "no device", "cuda:99", 1.5])
def test_missing_devices_raise(device):
    for search in ("auto", "torch"):
        with pytest.raises(UserError, match="device.*devices here: .*cpu"):
            nearest_neighbors(GALLERY, 3, search=search, device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="of machines without CUDA")
def test_cuda_without_a_card():
    with pytest.raises(UserError, match="torch sees no CUDA device"):
        nearest_neighbors(GALLERY, 3, device="cuda")


def test_descriptors_on_the_meta_device():
    with pytest.raises(ValueError, match="meta"):
        nearest_neighbors(torch.empty(20, 8, device="meta"), 3)


@pytest.mark.parametrize("features", [np.ones(8, np.float32), np.ones((2, 3, 4), np.float32), np.float32(1)])
def test_the_error_about_one_side_does_not_mention_a_gallery(features):
    with pytest.raises(ArgumentError, match=r"descriptors must be \[N, D\]") as caught:
        nearest_neighbors(features, 1)
    assert "gallery" not in str(caught.value)
