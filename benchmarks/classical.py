"""The usual implementation, as the baseline of evaluation.py and labeling.py: full matrices, sorts, Python loops."""

import numpy as np
import torch
from sklearn.cluster import DBSCAN


def distance_matrix(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """1 - cosine of unit-length descriptors, [Q, G]."""
    q, g = torch.from_numpy(query), torch.from_numpy(gallery)
    return (1 - q @ g.T).numpy()


def mean_ap(distances: np.ndarray, q_pids, g_pids, q_cams, g_cams) -> float:
    """Rank by a full sort and a scan of every row."""
    order = np.argsort(distances, axis=1)
    aps = []
    for row, pid, cam in zip(order, q_pids, q_cams, strict=True):
        right = g_pids[row] == pid
        hits = right[~(right & (g_cams[row] == cam))]
        places = np.flatnonzero(hits)
        if len(places):
            aps.append(np.mean(np.arange(1, len(places) + 1) / (places + 1)))
    return float(np.mean(aps))


def reranked(query: np.ndarray, gallery: np.ndarray, k1: int = 20, k2: int = 6, weight: float = 0.3) -> np.ndarray:
    """k-reciprocal re-ranking of Zhong et al. (2017) on N x N matrices; distances [Q, G]."""
    features = np.concatenate([query, gallery])
    distances = distance_matrix(features, features)
    distances /= distances.max(axis=1, keepdims=True)
    order = np.argsort(distances, axis=1)
    described = _described(order, k1 + 1, int(np.around(k1 / 2)) + 1, lambda i, members: distances[i, members])
    described = _averaged(described, order, k2)
    jaccard = _jaccard(described, len(query))
    return ((1 - weight) * jaccard + weight * distances[: len(query)])[:, len(query) :]


def clusters(features: np.ndarray, k1: int = 30, k2: int = 6, eps: float = 0.6, min_samples: int = 4) -> np.ndarray:
    """Labels of DBSCAN on the N x N matrix of Jaccard distances, as in unsupervised methods."""
    x = torch.from_numpy(features)
    similarity = x @ x.T
    order = similarity.topk(k1, dim=1).indices.numpy()

    def squared(i: int, members: np.ndarray) -> np.ndarray:
        return (2 - 2 * x[i] @ x[torch.from_numpy(members)].T).numpy()

    described = _averaged(_described(order, k1, int(np.around(k1 / 2)) + 1, squared), order, k2)
    distances = np.maximum(_jaccard(described, len(features)), 0)
    return DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit_predict(distances)


def consistency(features: np.ndarray, parts: np.ndarray, k: int = 20) -> np.ndarray:
    """Consistency scores 1 - clamp(MMD / 2k) of the parts [N, P, D], image by image; [N, P]."""
    sigmas = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 5, 10, 15, 20, 25, 30, 35, 100, 1e3, 1e4, 1e5, 1e6]

    def lists(rows: torch.Tensor) -> torch.Tensor:
        return (rows @ rows.T).topk(k + 1, dim=1).indices[:, 1:]

    def described(rows: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
        matrix = torch.cdist(rows[near], rows[near])
        return (matrix / (matrix.max() + 1e-8)).flatten()

    whole = torch.from_numpy(features)
    whole_lists, scores = lists(whole), np.empty(parts.shape[:2], dtype=np.float32)
    for part in range(parts.shape[1]):
        rows = torch.from_numpy(np.ascontiguousarray(parts[:, part]))
        for image, (near, part_near) in enumerate(zip(whole_lists, lists(rows), strict=True)):
            squared = (described(whole, near) - described(rows, part_near)).square().sum()
            shared = sum(torch.exp(-squared / (2 * sigma)) for sigma in sigmas)
            scores[image, part] = 1 - ((2 * len(sigmas) - 2 * shared) / (2 * k)).clamp(0, 1)
    return scores


def expanded(features: np.ndarray, k: int = 10, alpha: float = 3.0) -> np.ndarray:
    """Average query expansion with all cosines and a loop over rows."""
    x = torch.nn.functional.normalize(torch.from_numpy(features))
    means = []
    for row in (x @ x.T).numpy():
        nearest = np.argpartition(-row, range(1, k + 1))[:k]
        means.append(np.mean(features[nearest] * row[nearest, None] ** alpha, axis=0))
    return np.stack(means)


def _described(order: np.ndarray, wide: int, half: int, distances_of) -> np.ndarray:
    """Weights of the expanded k-reciprocal neighbours, [N, N]."""

    def reciprocal(image: int, k: int) -> np.ndarray:
        near = order[image, :k]
        return near[(order[near, :k] == image).any(axis=1)]

    halves = [reciprocal(image, half) for image in range(len(order))]
    described = np.zeros((len(order), len(order)), dtype=np.float32)
    for image in range(len(order)):
        members = reciprocal(image, wide)
        expanded_members = members
        for member in members:
            others = halves[member]
            if len(np.intersect1d(others, members)) > 2 / 3 * len(others):
                expanded_members = np.append(expanded_members, others)
        expanded_members = np.unique(expanded_members)
        weights = np.exp(-distances_of(image, expanded_members))
        described[image, expanded_members] = weights / weights.sum()
    return described


def _averaged(described: np.ndarray, order: np.ndarray, k2: int) -> np.ndarray:
    return np.stack([described[order[image, :k2]].mean(axis=0) for image in range(len(order))])


def _jaccard(described: np.ndarray, num_rows: int) -> np.ndarray:
    """Jaccard distances of the first rows to all, [num_rows, N]."""
    holders = [np.flatnonzero(described[:, column]) for column in range(len(described))]
    distances = np.empty((num_rows, len(described)), dtype=np.float32)
    for row in range(num_rows):
        shared = np.zeros(len(described), dtype=np.float32)
        for column in np.flatnonzero(described[row]):
            rows = holders[column]
            shared[rows] += np.minimum(described[row, column], described[rows, column])
        distances[row] = 1 - shared / (2 - shared)
    return distances
