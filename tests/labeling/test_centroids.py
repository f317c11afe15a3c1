"""Centres of clusters and of the cameras in them."""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from fastreid.labeling.centroids import camera_proxies, centroids

GOLDEN = np.load(Path(__file__).parents[1] / "golden/dcac.npz")


def test_centres_are_those_of_released_code():
    """DCAC's release and that of Cluster Contrast have the same function."""
    found = centroids(torch.tensor(GOLDEN["centroid/features"]), torch.tensor(GOLDEN["centroid/labels"]).long())
    np.testing.assert_allclose(found.numpy(), GOLDEN["centroid/bank"], atol=1e-6)


def test_features_of_any_length_count_the_same_and_outliers_do_not():
    features = torch.tensor([[3.0, 0.0], [0.0, 5.0], [-1.0, 0.0], [9.0, 9.0]])
    found = centroids(features, torch.tensor([1, 1, 0, -1]))
    torch.testing.assert_close(found, torch.tensor([[-1.0, 0.0], [0.5**0.5, 0.5**0.5]]))
    assert centroids(features, torch.full((4,), -1)).shape == (0, 2)


def test_a_proxy_of_each_camera_in_each_cluster():
    features = F.normalize(torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    labels, cameras = torch.tensor([1, 0, 1, 1, 0, -1]), torch.tensor([4, 2, 0, 4, 2, 0])
    proxies, clusters, places = camera_proxies(2 * features, labels, cameras)
    assert (clusters.tolist(), places.tolist()) == ([0, 1, 1], [2, 0, 4])
    wanted = [features[[1, 4]], features[[2]], features[[0, 3]]]
    torch.testing.assert_close(proxies, torch.stack([F.normalize(rows.mean(0), dim=0) for rows in wanted]))
    assert camera_proxies(features, torch.full((6,), -1), cameras)[0].shape == (0, 3)
