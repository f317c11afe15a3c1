"""Clusters of features by their Jaccard distances, with the algorithms of scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastreid.labeling.connected import alone, connected
from fastreid.labeling.spanning import spanning_graph
from fastreid.retrieval.neighbors import Neighbors, nearest_neighbors
from fastreid.retrieval.reranking import jaccard_graph, jaccard_rows, neighbors_needed
from fastreid.utils.registry import Registry

CLUSTERING_REGISTRY = Registry("clustering")
"""Name -> function (features [M, D] of unit length, `Clustering`) -> clusters int64 [M]; -1 for outliers."""


@dataclass(frozen=True)
class Clustering:
    """How features are clustered.

    Args:
        method: a name in `CLUSTERING_REGISTRY`.
        k1: as `jaccard_graph`.
        k2: as `jaccard_graph`.
        eps: greatest distance of neighbours, of DBSCAN.
        min_samples: neighbours of a core point, the point included; of HDBSCAN also the size of the smallest cluster.
        keeps_outliers: whether each outlier is a cluster of its own.
        is_camera_aware: whether the mean feature of an image's camera is subtracted first.
        search: as `nearest_neighbors`.
        device: as `nearest_neighbors`.
        nearest: what `neighbors` found, while `find` runs with it.

    Raises:
        RegistryError: there is no such method.
    """

    method: str = "dbscan"
    k1: int = 30
    k2: int = 6
    eps: float = 0.5
    min_samples: int = 4
    keeps_outliers: bool = False
    is_camera_aware: bool = False
    search: str = "auto"
    device: str = "cpu"
    nearest: Neighbors | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        CLUSTERING_REGISTRY.get(self.method, key="CLUSTER.METHOD")

    def neighbors(self, features: Tensor, count: int) -> Neighbors | None:
        """Search the nearest images of each image once for `find` and for another purpose.

        Args:
            features: [M, D], of any length.
            count: neighbours that the other purpose needs of each image, at most M.

        Returns:
            The neighbours by the cosine of the features, at least `count` of each image. None if `is_camera_aware`,
            as `find` then needs neighbours by other features.
        """
        if self.is_camera_aware:
            return None
        k = min(len(features), max(count, neighbors_needed(self.k1, self.k2)))
        return nearest_neighbors(F.normalize(features.float(), dim=1), k, search=self.search, device=self.device)

    def find(self, features: Tensor, cameras: Tensor, nearest: Neighbors | None = None) -> Tensor:
        """Cluster features.

        Args:
            features: [M, D], of any length.
            cameras: camera of each image, int64 [M].
            nearest: what `neighbors` returned for these features; None searches them.

        Returns:
            int64 [M]: 0 … K - 1, numbered in the order of their first core points (DBSCAN) or images (HDBSCAN); -1 for
            outliers, whether or not they are kept.
        """
        features = F.normalize(features.float(), dim=1)
        if self.is_camera_aware:
            features = F.normalize(without_cameras(features, cameras), dim=1)
        how = replace(self, nearest=nearest)
        return torch.from_numpy(CLUSTERING_REGISTRY.get(self.method)(features, how).astype(np.int64))

    def settle(self, clusters: Tensor) -> Tensor:
        """Return the labels of an epoch: outliers stay -1, or become the clusters K, K + 1, … if they are kept.

        Args:
            clusters: what `find` returned, [M].
        """
        if not self.keeps_outliers:
            return clusters
        labels, is_outlier = clusters.clone(), clusters < 0
        first = count_of(clusters)
        labels[is_outlier] = torch.arange(first, first + int(is_outlier.sum()))
        return labels

    @property
    def search_options(self) -> dict[str, Any]:
        """The arguments of `jaccard_graph` and `jaccard_rows` that both have."""
        return {
            "k1": self.k1,
            "k2": self.k2,
            "search": self.search,
            "device": self.device,
            "nearest": self.nearest,
        }


def count_of(labels: Tensor) -> int:
    """Return the number of clusters of labels [M]."""
    return int(labels.max()) + 1 if len(labels) else 0


def without_cameras(features: Tensor, cameras: Tensor) -> Tensor:
    """Return features [M, D] from which the mean feature of the image's camera is subtracted.

    Args:
        features: [M, D].
        cameras: [M].
    """
    numbers, row_of = cameras.unique(return_inverse=True)
    sums = features.new_zeros(len(numbers), features.shape[1]).index_add_(0, row_of, features)
    return features - (sums / row_of.bincount()[:, None])[row_of]


@CLUSTERING_REGISTRY.register
def dbscan(features: Tensor, clustering: Clustering) -> np.ndarray:
    """Return scikit-learn's DBSCAN: clusters of dense images; a border image is in the first cluster that reaches it.

    Args:
        features: [M, D], of unit length.
        clustering: k1, k2, eps and min_samples.
    """
    from sklearn.cluster import DBSCAN

    if len(features) < clustering.min_samples:
        return np.full(len(features), -1)
    graph = jaccard_graph(features, max_distance=clustering.eps, **clustering.search_options)
    return DBSCAN(eps=clustering.eps, min_samples=clustering.min_samples, metric="precomputed").fit_predict(graph)


@CLUSTERING_REGISTRY.register
def hdbscan(features: Tensor, clustering: Clustering) -> np.ndarray:
    """Return scikit-learn's HDBSCAN: clusters of any density.

    Args:
        features: [M, D], of unit length.
        clustering: k1, k2 and min_samples, which is also the size of the smallest cluster, then at least 2.
    """
    from sklearn.cluster import HDBSCAN

    smallest = max(2, clustering.min_samples)
    if len(features) < smallest:
        return np.full(len(features), -1)
    graph = spanning_graph(jaccard_rows(features, **clustering.search_options), clustering.min_samples)
    found = HDBSCAN(smallest, clustering.min_samples, metric="precomputed", copy=False).fit_predict(
        connected(graph, clustering.min_samples)
    )
    found[alone(graph, clustering.min_samples, smallest)] = -1
    return _by_first_image(found)


def _by_first_image(clusters: np.ndarray) -> np.ndarray:
    """Number clusters in the order of their first images."""
    is_kept = clusters >= 0
    _, first, number = np.unique(clusters[is_kept], return_index=True, return_inverse=True)
    ordered = np.full(len(clusters), -1)
    ordered[is_kept] = first.argsort().argsort()[number]
    return ordered
