"""Query expansion and database-side augmentation: each descriptor becomes a weighted mean of its neighbours."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import sparse
from torch import Tensor

from fastreid.retrieval.descriptors import as_float32, exceeds_float32, rows_on_cpu
from fastreid.retrieval.metric import joined_rows
from fastreid.retrieval.neighbors import nearest_neighbors
from fastreid.utils.counts import whole_number
from fastreid.utils.errors import ArgumentError

# Numbers below have fewer digits in float32, and those of a mean are smaller than those of its rows.
_SHORTEST = 2.0**-128


def aqe(
    query: ArrayLike,
    gallery: ArrayLike,
    qe_times: int = 1,
    qe_k: int = 10,
    alpha: float = 3.0,
    *,
    search: str = "auto",
    device: str | torch.device = "cpu",
) -> tuple[Tensor, Tensor]:
    """Average query expansion of queries and gallery among all of them, as fast-reid's function of this name.

    Args:
        query: descriptors [Q, D].
        gallery: descriptors [G, D].
        qe_times: number of rounds; each starts from the means of the one before.
        qe_k: number of neighbours that are averaged, the image itself included.
        alpha: the weight of a neighbour is its cosine to this power (Radenovic et al., TPAMI 2019); negative cosines
            have no weight. 0 is the plain mean (Chum et al., ICCV 2007).
        search: as `nearest_neighbors`.
        device: as `nearest_neighbors`.

    Returns:
        float32 descriptors [Q, D] and [G, D].

    Raises:
        ValueError: as `nearest_neighbors`; qe_times below 1; an alpha that is negative or not finite.
    """
    qe_times, qe_k = whole_number(qe_times, "qe_times", 1), whole_number(qe_k, "qe_k", 1)
    alpha = _power(alpha)
    queries = _float32(query, "query image")
    rows = joined_rows(queries, _float32(gallery, "gallery image"), "cosine")
    for _ in range(qe_times):
        rows = expand(rows, qe_k, alpha, search=search, device=device)
    return torch.from_numpy(rows[: len(queries)]), torch.from_numpy(rows[len(queries) :])


def expand(
    features: ArrayLike, k: int, alpha: float, *, search: str = "auto", device: str | torch.device = "cpu"
) -> np.ndarray:
    """Return each descriptor's mean over its k nearest neighbours, weighted as in `aqe`, float32 [N, D].

    For a gallery this is database-side augmentation (Arandjelović and Zisserman, CVPR 2012): it needs no query, so it
    can be done once.
    """
    k, alpha = whole_number(k, "k"), _power(alpha)
    rows = _float32(features, "image")
    nearest = nearest_neighbors(rows, k, search=search, device=device)
    cosine = np.maximum(1 - nearest.distances, 0)
    weights = np.power(cosine, np.float32(alpha)) / np.float32(k)
    starts = np.arange(len(rows) + 1) * k
    return sparse.csr_matrix((weights.ravel(), nearest.indices.ravel(), starts), shape=(len(rows), len(rows))) @ rows


def _float32(features: ArrayLike, side: str) -> np.ndarray:
    """Return descriptors in float32.

    Raises:
        ArgumentError: names a descriptor whose digits rounding loses.
    """
    rows = rows_on_cpu(features)
    rounded = as_float32(rows)
    if exceeds_float32(rows) and rounded.ndim == 2 and rounded.size:
        largest = np.abs(rounded).max(axis=1)
        short, long = np.flatnonzero(largest < _SHORTEST), np.flatnonzero(np.isinf(largest))
        short = short[np.asarray(rows)[short].any(axis=1)]  # zeros stay zeros
        long = long[np.isfinite(np.asarray(rows)[long]).all(axis=1)]
        for lost, how in ((short, "short"), (long, "long")):
            if lost.size:
                raise ArgumentError(
                    f"the descriptor of {side} {lost[0]} is so {how} that float32 has no room for it ({lost.size} of "
                    f"{len(rows)} are): multiply all descriptors by one number"
                )
    return rounded


def _power(alpha: Any) -> float:
    try:
        power = math.nan if isinstance(alpha, str | bytes | bool) else float(alpha)
    except (TypeError, ValueError, OverflowError):
        power = math.nan
    if power < 0:
        raise ArgumentError(f"alpha must be at least 0, got {alpha}")
    if not 0 <= power <= float(np.finfo(np.float32).max):
        raise ArgumentError(f"alpha must be a finite number of at least 0, got {alpha!r:.60}")
    return power
