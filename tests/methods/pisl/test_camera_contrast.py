"""The camera loss: a value by hand, one camera, negatives, gradients."""

import math

import pytest
import torch
import torch.nn.functional as F

from fastreid.methods.pisl.camera_contrast import CameraContrast, CameraProxies

# Two clusters in two cameras, on the axes of the space.
PROXIES = CameraProxies(torch.eye(4)[None], torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]))


def contrast(features, targets, cameras, proxies=PROXIES, *, temperature=1.0, num_hard=50, fills=False):
    loss = CameraContrast(temperature, num_hard, fills)
    return loss(features, torch.tensor(targets), torch.tensor(cameras), proxies, 0)


def test_a_value_by_hand():
    """The positive is the own cluster in the other camera; the own camera's proxy is nowhere in it."""
    feature = torch.tensor([[0.6, 0.8, 0.0, 0.0]])
    expected = -math.log(math.exp(0.8) / (math.exp(0.8) + 2))
    assert contrast(3 * feature, [0], [0]).item() == pytest.approx(expected, abs=1e-6)
    both = contrast(torch.cat([feature, feature]), [0, 1], [0, 0])
    other = -math.log(1 / (1 + math.exp(0.6) + math.exp(0.8)))
    assert both.item() == pytest.approx((expected + other) / 2, abs=1e-6)


def test_nothing_is_pulled_within_one_camera():
    alone = CameraProxies(torch.eye(4)[None, :2], torch.tensor([0, 1]), torch.tensor([0, 0]))
    features = torch.randn(3, 4, requires_grad=True)
    loss = contrast(features, [0, 1, 1], [0, 0, 0], alone)
    loss.backward()
    assert loss == 0 and not features.grad.any()


def test_an_image_without_a_positive_adds_zero():
    proxies = CameraProxies(torch.eye(4)[None, :3], torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]))
    features = torch.randn(2, 4)
    assert contrast(features, [0, 1], [0, 0], proxies) == contrast(features[:1], [0], [0], proxies) / 2


def test_the_nearest_negatives_count():
    feature = torch.tensor([[0.0, 0.5, 0.8, 0.3]])
    nearest = F.normalize(feature)[0]
    expected = -math.log(math.exp(nearest[1]) / (math.exp(nearest[1]) + math.exp(nearest[2])))
    assert contrast(feature, [0], [0], num_hard=1).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("num_hard", "own"), [(2, 0), (3, 1), (4, 2), (50, 2)])
def test_the_released_loss_fills_missing_negatives_with_the_own_cluster(num_hard, own):
    feature = F.normalize(torch.tensor([[0.1, 0.9, 0.2, 0.3]]))
    parts = feature[0].exp()
    filled = parts[2] + parts[3] + parts[[1, 0]][:own].sum()
    expected = -(parts[1] / (parts[1] + filled)).log()
    found = contrast(feature, [0], [0], num_hard=num_hard, fills=True)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(contrast(feature, [0], [0], num_hard=num_hard), -(parts[1] / (parts[1:].sum())).log())


def test_gradients_reach_features_only():
    proxies = CameraProxies(torch.eye(4)[None].requires_grad_(), PROXIES.clusters, PROXIES.cameras)
    features = torch.randn(2, 4, requires_grad=True)
    contrast(features, [0, 1], [0, 1], proxies).backward()
    assert features.grad.any()


def test_numbers_of_double_precision():
    features = torch.randn(2, 4)
    double = CameraProxies(PROXIES.features.double(), PROXIES.clusters, PROXIES.cameras)
    assert contrast(features.double(), [0, 1], [0, 1], double) == contrast(features, [0, 1], [0, 1])
