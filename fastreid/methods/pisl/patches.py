"""Patches of feature maps: cut by affine matrices, or fixed stripes (PISL, section 2).

A patch is described by a matrix theta [2, 3]. Its rows map the coordinates (x, y, 1) of the patch, from -1 to 1, to x
and y in the map. The patch has the size of the map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def strips(num_parts: int) -> Tensor:
    """Return the matrices [P, 2, 3] of P strips of full width, one below the other."""
    theta = torch.zeros(num_parts, 2, 3)
    theta[:, 0, 0] = 1
    theta[:, 1, 1] = 1 / num_parts
    theta[:, 1, 2] = (2 * torch.arange(num_parts) + 1) / num_parts - 1
    return theta


def released_first_patches(num_parts: int) -> Tensor:
    """Return the release's first output of the localisation network, [P, 2, 3]; both rows of a matrix are equal."""
    return torch.tensor([1.0, 1 / 3, 1 / 3]).expand(num_parts, 2, 3).clone()


def released_first_noise(num_parts: int) -> Tensor:
    """Return the release's first output of the denoiser, [P, 2, 3]; its shifts are -0.1, 0 and 0.1 for three parts."""
    theta = torch.tensor([1.0, 1.0, 0.0]).expand(num_parts, 2, 3).clone()
    last = num_parts - 1
    theta[0, 1, 2], theta[last, 1, 2] = (-0.1, 0.1) if last else (0.0, 0.0)
    return theta


def cut_patches(maps: Tensor, theta: Tensor, padding: str = "zeros") -> Tensor:
    """Cut patches by bilinear interpolation.

    Args:
        maps: [B, C, h, w].
        theta: [B, P, 2, 3].
        padding: "zeros", "border" or "reflection": what is outside of the map.

    Returns:
        Patches [B, P, C, h, w].
    """
    batch, parts = theta.shape[:2]
    size, theta = [batch, maps.shape[1], *maps.shape[2:]], theta.to(maps.dtype)
    cut = [
        F.grid_sample(
            maps,
            F.affine_grid(theta[:, part], size, align_corners=False),
            mode="bilinear",
            padding_mode=padding,
            align_corners=False,
        )
        for part in range(parts)
    ]
    return torch.stack(cut, dim=1)


def pooled_patches(maps: Tensor, theta: Tensor, padding: str = "zeros") -> Tensor:
    """Return the mean feature [B, P, C] of each patch; arguments as `cut_patches`.

    A patch is a weighted sum of the pixels of its map. The weights are computed once for all channels.
    """
    height, width = maps.shape[2:]
    pixels = torch.eye(height * width, device=maps.device, dtype=maps.dtype).view(1, -1, height, width)
    weights = cut_patches(pixels.expand(len(maps), -1, -1, -1), theta, padding).mean(dim=(3, 4))
    return weights @ maps.flatten(2).transpose(1, 2)


def pooled_stripes(maps: Tensor, num_parts: int) -> Tensor:
    """Return the mean feature [B, P, C] of P stripes of maps [B, C, h, w], one below the other."""
    return F.adaptive_avg_pool2d(maps, (num_parts, 1))[..., 0].transpose(1, 2)
