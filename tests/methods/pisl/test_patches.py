"""Patches of maps: identity, strips, order of the batch, padding."""

import pytest
import torch

from fastreid.methods.pisl.patches import cut_patches, pooled_patches, pooled_stripes, strips


def test_the_identity_is_the_whole_map():
    maps = torch.randn(2, 4, 24, 8)
    theta = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).expand(2, 1, 2, 3)
    torch.testing.assert_close(pooled_patches(maps, theta)[:, 0], maps.mean(dim=(2, 3)))


def test_strips_are_stripes_up_to_their_borders():
    """At a border, a row next to the strip bleeds in with a weight of at most 1 / 72 (24 rows)."""
    maps = torch.rand(2, 5, 24, 8)
    stripes = pooled_stripes(maps, 3)
    theta = strips(3).expand(2, 3, 2, 3)
    pooled = pooled_patches(maps, theta)
    assert (pooled - stripes).abs().max() <= 2 / 72 + 1e-6
    rows = torch.zeros(1, 1, 24, 8)
    rows[:, :, 7] = 1
    torch.testing.assert_close(pooled_patches(rows, theta[:1]), torch.tensor([[[1 / 9], [1 / 72], [0.0]]]))
    rows[:] = torch.eye(24)[0].view(1, 1, 24, 1)  # the first row gives a part to the padding
    torch.testing.assert_close(pooled_patches(rows, theta[:1])[0, 0], torch.tensor([1 / 9]))
    torch.testing.assert_close(stripes, maps.view(2, 5, 3, 8, 8).mean(dim=(3, 4)).transpose(1, 2))


@pytest.mark.parametrize("num_parts", [1, 2, 5])
def test_any_number_of_strips_tiles_the_map(num_parts):
    theta = strips(num_parts)
    edges = torch.stack([theta[:, 1, 2] - theta[:, 1, 1], theta[:, 1, 2] + theta[:, 1, 1]], dim=1)
    expected = torch.linspace(-1, 1, num_parts + 1)
    torch.testing.assert_close(edges, torch.stack([expected[:-1], expected[1:]], dim=1))


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_pooled_patches_are_the_means_of_patches_and_so_are_their_gradients(padding):
    maps, theta = torch.randn(3, 40, 6, 4), torch.randn(3, 2, 2, 3)
    found = []
    for pool in (pooled_patches, lambda *given: cut_patches(*given).mean(dim=(3, 4))):
        leaves = maps.clone().requires_grad_(), theta.clone().requires_grad_()
        pooled = pool(*leaves, padding)
        pooled.square().sum().backward()
        found.append([pooled.detach(), *(leaf.grad for leaf in leaves)])
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)


def test_padding_is_what_is_outside_of_the_map():
    maps, outside = torch.ones(1, 1, 4, 4), torch.tensor([[1.0, 0, 9], [0, 1, 0]]).view(1, 1, 2, 3)
    assert pooled_patches(maps, outside, "zeros") == 0
    assert pooled_patches(maps, outside, "border") == pooled_patches(maps, outside, "reflection") == 1


def test_rows_do_not_mix():
    maps, theta, order = torch.randn(4, 3, 6, 4), torch.randn(4, 2, 2, 3), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(pooled_patches(maps[order], theta[order]), pooled_patches(maps, theta)[order])


def test_matrices_have_the_precision_of_the_map():
    maps, theta = torch.randn(2, 3, 6, 4, dtype=torch.float64), torch.randn(2, 5, 2, 3)
    patches = cut_patches(maps, theta)
    assert patches.shape == (2, 5, 3, 6, 4) and patches.dtype == torch.float64
    torch.testing.assert_close(patches, cut_patches(maps, theta.double()))
