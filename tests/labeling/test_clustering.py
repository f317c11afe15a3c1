"""Clustering: the two algorithms, outliers, cameras, and what HDBSCAN's graph needs."""

import warnings

import numpy as np
import pytest
import torch
from scipy.sparse import csgraph, csr_matrix
from sklearn.cluster import HDBSCAN
from torch.nn import functional as F

from fastreid.labeling import spanning
from fastreid.labeling.clustering import Clustering
from fastreid.labeling.connected import alone, connected
from fastreid.labeling.spanning import spanning_graph
from fastreid.retrieval.reranking import jaccard_graph, jaccard_rows
from fastreid.utils.registry import RegistryError

SMALL = {"k1": 10, "k2": 3, "min_samples": 4}


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def blobs(count, each, *, noise=0.02, dim=32, seed=0):
    """Tight blobs around random directions, in the order of the blobs."""
    return F.normalize(unit(count, dim, seed=seed).repeat_interleave(each, 0) + noise * unit(count * each, dim, seed=9))


def cameras_of(features):
    return torch.zeros(len(features), dtype=torch.int64)


def find(features, **options):
    return Clustering(**SMALL | options).find(features, cameras_of(features))


@pytest.mark.parametrize("method", ["dbscan", "hdbscan"])
def test_two_blobs_are_two_clusters_and_three_points_alone_are_dropped(method):
    features = torch.cat([blobs(2, 10), unit(3, 32, seed=5)])
    found = find(features, method=method, k2=1)
    assert found.tolist() == [0] * 10 + [1] * 10 + [-1] * 3 and found.dtype == torch.int64
    found = find(features.flip(0) * 7, method=method, k2=1)  # another order, other lengths
    assert found.tolist() == [-1] * 3 + [0] * 10 + [1] * 10


def test_outliers_are_dropped_or_clusters_of_their_own():
    found = torch.tensor([-1, 1, 0, -1, 1])
    assert Clustering().settle(found).tolist() == [-1, 1, 0, -1, 1]
    assert Clustering(keeps_outliers=True).settle(found).tolist() == [2, 1, 0, 3, 1]
    assert Clustering(keeps_outliers=True).settle(torch.tensor([-1, -1])).tolist() == [0, 1]


def classic_dbscan(distances, eps, min_samples):
    """DBSCAN as it is defined, on all distances; an image is its own neighbour."""
    near = distances <= eps
    is_core, labels, count = near.sum(1) >= min_samples, np.full(len(near), -1), 0
    for first in range(len(near)):
        if not is_core[first] or labels[first] >= 0:
            continue
        labels[first], stack = count, [first]
        while stack:
            for other in np.flatnonzero(near[stack.pop()] & (labels < 0)):
                labels[other] = count
                if is_core[other]:
                    stack.append(other)
        count += 1
    return labels


@pytest.mark.parametrize("eps", [0.35, 0.45, 0.6])
@pytest.mark.parametrize("min_samples", [1, 4])
def test_dbscan_is_that_of_the_whole_matrix(eps, min_samples):
    features = blobs(12, 9, noise=0.9, dim=8)
    graph = jaccard_graph(features, k1=10, k2=3, max_distance=1.0)
    distances = np.ones(graph.shape, dtype=np.float32)
    stored = graph.tocoo()
    distances[stored.row, stored.col] = stored.data
    np.fill_diagonal(distances, 0)
    found = find(features, k1=10, k2=3, eps=eps, min_samples=min_samples).numpy()
    assert (found == classic_dbscan(distances, np.float32(eps), min_samples)).all()
    assert found.max() > 2


def test_hdbscan_of_the_sparse_graph_is_that_of_the_whole_matrix():
    features = torch.cat([blobs(5, 7, noise=0.5), blobs(3, 12, noise=0.2, seed=2)])
    graph = jaccard_graph(features, k1=8, k2=2, max_distance=1.0)
    assert csgraph.connected_components(graph)[0] > 1
    whole = np.ones(graph.shape)
    stored = graph.tocoo()
    whole[stored.row, stored.col] = stored.data
    np.fill_diagonal(whole, 0)
    wanted = HDBSCAN(4, 4, metric="precomputed", copy=True).fit_predict(whole)
    wanted[alone(graph, 4, 4)] = -1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = find(features, method="hdbscan", k1=8, k2=2).numpy()
    assert len(set(zip(found.tolist(), wanted.tolist(), strict=True))) == len(set(wanted.tolist())) > 4
    assert ((found < 0) == (wanted < 0)).all()


def test_images_alone_have_no_near_ones_or_too_few():
    """Images 0 to 3 are a cluster, 4 hangs at 0, 5 to 7 are too few, 8 has nothing but itself."""
    near = np.ones((9, 9), dtype=np.float32)
    near[:4, :4], near[5:8, 5:8] = 0.3, 0.2
    near[4, 0] = near[0, 4] = 0.9
    np.fill_diagonal(near, 0)
    graph = csr_matrix((near[near < 1], np.nonzero(near < 1)), shape=near.shape)
    assert alone(graph, 3, 4).tolist() == [False] * 4 + [True] * 5
    assert alone(graph, 3, 3).tolist() == [False] * 4 + [True, False, False, False, True]
    assert alone(graph, 2, 4).tolist() == [False] * 5 + [True] * 4


def test_hdbscan_numbers_clusters_by_their_first_images():
    found = find(blobs(6, 6), method="hdbscan").tolist()
    assert found == [number for number in range(6) for _ in range(6)]


def test_missing_distances_of_one_connect_the_graph_and_fill_its_rows():
    features = torch.cat([blobs(3, 5), unit(4, 32, seed=5)])
    graph = spanning_graph(jaccard_rows(features, k1=4, k2=1), 3)
    completed = connected(graph, 6)
    assert csgraph.connected_components(graph)[0] > 3 and csgraph.connected_components(completed)[0] == 1
    assert np.diff(completed.indptr).min() >= 6
    whole, before = completed.toarray(), graph.toarray()
    assert (whole == whole.T).all() and (whole.diagonal() == 0).all()
    stored = before > 0
    assert stored.any() and (whole[stored] == before[stored]).all()
    assert set(whole[~stored].tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("min_samples", [1, 2, 5])
def test_the_spanning_graph_has_the_cores_and_the_tree_of_all_distances(min_samples, seed, monkeypatch):
    monkeypatch.setattr(spanning, "_BLOCK_ROWS", 7)
    features = blobs(6, 9, noise=2.0, dim=16, seed=seed)
    whole = np.ones((54, 54), dtype=np.float32)
    stored = jaccard_graph(features, k1=20, k2=6, max_distance=1.0).tocoo()
    whole[stored.row, stored.col] = np.maximum(stored.data, spanning.SHORTEST)
    np.fill_diagonal(whole, 0)
    graph = spanning_graph(jaccard_rows(features, k1=20, k2=6), min_samples)
    few = np.where(graph.toarray() > 0, graph.toarray(), 1).astype(np.float32)
    np.fill_diagonal(few, 0)
    assert graph.nnz < (whole < 1).sum() / 2
    cores, trees = [], []
    for distances in (whole, few):
        cores.append(np.sort(distances, axis=1)[:, min_samples - 1])
        reach = np.maximum(distances, np.maximum(cores[-1][:, None], cores[-1][None]))
        trees.append(np.sort(csgraph.minimum_spanning_tree(reach).data))
    assert (cores[0] == cores[1]).all() and (trees[0] == trees[1]).all()


@pytest.mark.parametrize("method", ["dbscan", "hdbscan"])
def test_copies_of_an_image_are_a_cluster(method):
    features = torch.cat([unit(2, 32).repeat_interleave(6, 0), unit(5, 32, seed=3)])
    assert find(features, method=method)[:12].tolist() == [0] * 6 + [1] * 6


@pytest.mark.parametrize("method", ["dbscan", "hdbscan"])
def test_fewer_images_than_a_cluster_has_are_outliers(method):
    assert find(blobs(1, 3), method=method).tolist() == [-1] * 3
    assert find(blobs(1, 3)[:0], method=method).tolist() == []


def test_camera_aware_clusters_are_of_people_where_cameras_shift_features():
    people, cameras = torch.arange(48) // 6, torch.arange(48) % 2
    features = blobs(8, 6, noise=0.05) + 3 * unit(2, 32, seed=7)[cameras]
    plain = Clustering(**SMALL).find(features, cameras)
    aware = Clustering(**SMALL, is_camera_aware=True).find(features, cameras)
    assert (aware == people).all()
    assert all(cameras[plain == cluster].unique().numel() == 1 for cluster in range(int(plain.max()) + 1))


def test_all_searches_find_the_same_clusters():
    features = blobs(12, 9, noise=0.8, dim=16)
    found = [find(features, search=search) for search in ("compiled", "torch", "faiss")]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2]) and found[0].max() > 3


def test_names_are_checked_at_once():
    with pytest.raises(RegistryError, match=r"CLUSTER.METHOD.*dbscn.*dbscan"):
        Clustering(method="dbscn")
