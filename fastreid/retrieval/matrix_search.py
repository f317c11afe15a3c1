"""Least distances among many, from products of rounded numbers that the matrix unit of a CPU (AMX) computes."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

_PRODUCT_BYTES = 64 << 20  # products that are computed together
_BLOCK_BYTES = 16 << 20  # distances that are compared together
_GROUPED = 16  # images of which only the least distance is compared at first


@cache
def has_matrix_unit() -> bool:
    """Return whether this CPU multiplies matrices of bfloat16 in a unit of their own."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


@torch.no_grad()
def least_distances(
    queries: np.ndarray,
    pairs: np.ndarray,
    query_offsets: np.ndarray,
    offsets: np.ndarray,
    *,
    slope: float,
    lowest: float,
    length: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the `length` least distances of each query: max(lowest, offset + offset + slope * product).

    The products are rounded to bfloat16.

    Args:
        queries: rows [Q, D] of rounded pairs, as `rounded_pairs`.
        pairs: the same of the images [N, D].
        query_offsets: offsets of the queries [Q].
        offsets: offsets of the images [N].
        slope: factor of the product.
        lowest: least distance.
        length: number of distances, at most N.

    Returns:
        Images int32 [Q, length] and distances float32 [Q, length], ascending; of equal distances any.
    """
    rows, images = (torch.from_numpy(values).view(torch.bfloat16) for values in (queries, pairs))
    row_offsets, image_offsets = torch.from_numpy(query_offsets), torch.from_numpy(offsets)
    num_images, num_groups = len(images), -(-len(images) // _GROUPED)
    block_rows = max(1, _BLOCK_BYTES // (4 * num_images))
    product_rows = block_rows * max(1, _PRODUCT_BYTES // (2 * num_images * block_rows))
    products = torch.empty(min(product_rows, len(rows)), num_images, dtype=torch.bfloat16)
    distances = torch.full((block_rows, num_groups * _GROUPED), torch.inf)
    found = []
    for several in rows.split(product_rows):
        for block in torch.mm(several, images.T, out=products[: len(several)]).split(block_rows):
            places = distances[: len(block)]
            torch.add(image_offsets, block, alpha=slope, out=places[:, :num_images])
            found.append(_least(places, length))
    nearest, distance = (torch.cat(parts) for parts in zip(*((index, near) for near, index in found), strict=True))
    return nearest.int().numpy(), (distance + row_offsets[:, None]).clamp_min(lowest).numpy()


def _least(distances: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the `length` least values of each row and their places, ascending.

    Places are grouped: the least values are in the groups with the least minima.
    """
    num_groups = distances.shape[1] // _GROUPED
    if num_groups <= length:
        return distances.topk(length, largest=False)
    groups = distances.view(len(distances), _GROUPED, num_groups).amin(dim=1).topk(length, largest=False).indices
    members = (groups[:, None] + num_groups * torch.arange(_GROUPED)[:, None]).flatten(1)
    near, places = distances.gather(1, members).topk(length, largest=False)
    return near, members.gather(1, places)
