"""The search for the weight of each view, and descriptors with other weights."""

import pytest
import torch

from fastreid.methods.sd_reid.fusion import Fusion
from fastreid.methods.sd_reid.view_weights import GRID, choose_view_weights, reweighted


@pytest.mark.parametrize("target", [(0.5, 2.0), (0.0, 0.0), (3.0, 0.1, 1.0)])
def test_the_highest_figure_is_found(target):
    asked = []

    def measure(weights):
        asked.append(weights)
        return -sum((a - b) ** 2 for a, b in zip(weights, target, strict=True))

    assert choose_view_weights(len(target), measure) == target
    assert len(asked) == len(set(asked)) < len(GRID) ** len(target)


def test_of_equal_figures_the_smallest_common_weight_is_kept():
    assert choose_view_weights(2, lambda weights: 1.0) == (0.0, 0.0)


def test_descriptors_get_the_weights_that_fusion_would_give_them():
    parts, person, latent, generated = ("person", "latent", "generated"), *torch.randn(2, 4, 6), torch.randn(4, 3, 6)
    weights = (0.25, 0.0, 2.0)
    ones = Fusion("weighted", 1.0, parts, 0.7, (1.0, 1.0, 1.0))(person, generated, latent)
    expected = Fusion("weighted", 1.0, parts, 0.7, weights)(person, generated, latent)
    torch.testing.assert_close(reweighted(ones, weights, 6), expected)
