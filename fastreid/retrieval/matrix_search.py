"""Neighbour lists from products of rounded numbers that the matrix unit of a CPU (AMX) computes."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch

_QUERY_ROWS, _IMAGE_ROWS = 4096, 2048  # rows that are multiplied together: 16 MiB of products
_TILE = 64  # the unit is slower for a number of rows that is no multiple of this


@cache
def has_matrix_unit() -> bool:
    """Return whether this CPU multiplies matrices of bfloat16 in a unit of their own."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def aligned_rows(count: int, dim: int) -> np.ndarray:
    """Return an array float32 [count, dim], not initialized, that begins at a multiple of 64 bytes.

    Elsewhere the unit takes twice the time, as each row that it reads lies in two lines of the cache.
    """
    memory = np.empty(count * dim + 16, dtype=np.float32)
    first = -memory.ctypes.data % 64 // memory.itemsize
    return memory[first : first + count * dim].reshape(count, dim)


@torch.no_grad()
def offer_all(
    lists: Any,
    queries: np.ndarray,
    images: np.ndarray,
    query_offsets: np.ndarray,
    offsets: np.ndarray,
    *,
    slope: float,
    lowest: float,
    each_pair_once: bool,
) -> None:
    """Offer all images to the lists of queries, at the distances max(lowest, offset + offset + slope * product).

    The products are rounded to bfloat16.

    Args:
        lists: compiled `NeighborLists` of the queries.
        queries: rows [Q, D] of rounded pairs, as `rounded_pairs`.
        images: the same of the images [N, D].
        query_offsets: offsets of the queries [Q].
        offsets: offsets of the images [N].
        slope: factor of the product.
        lowest: least distance.
        each_pair_once: whether queries and images are the same; then about half of the products are computed.
    """
    rows, columns = (torch.from_numpy(values).view(torch.bfloat16) for values in (queries, images))
    num_blocks = -(-len(columns) // _IMAGE_ROWS)
    block = -(-len(columns) // num_blocks // _TILE) * _TILE  # blocks of about the same size
    buffer = torch.empty(min(_QUERY_ROWS, len(rows)) * min(block, len(columns)), dtype=torch.bfloat16)
    for first, some in zip(range(0, len(columns), block), columns.split(block), strict=True):
        compared = rows[: first + len(some)] if each_pair_once else rows
        for start, several in zip(range(0, len(compared), _QUERY_ROWS), compared.split(_QUERY_ROWS), strict=True):
            products = buffer[: len(several) * len(some)].view(len(several), len(some))
            torch.mm(several, some.T, out=products)
            lists.offer_products(
                *(products.view(torch.uint16).numpy(), query_offsets, offsets, start, first),
                slope=slope,
                lowest=lowest,
                each_pair_once=each_pair_once,
            )
