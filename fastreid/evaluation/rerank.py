"""Re-ranking of distance matrices: the interface of fast-reid."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fastreid.retrieval.descriptors import as_float64, rows_on_cpu
from fastreid.retrieval.ranking import check_all_finite
from fastreid.retrieval.reranking import RerankedMatrix
from fastreid.utils.errors import ArgumentError

_ROUNDING = 0.01  # of 1 - cos of equal vectors in bfloat16
_EXPONENTS = 40  # squares of greater or smaller powers of two come near the ends of float32's range


def re_ranking(
    q_g_dist: ArrayLike,
    q_q_dist: ArrayLike,
    g_g_dist: ArrayLike,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
) -> np.ndarray:
    """Return re-ranked distances, float32 [Q, G]; the function of fast-reid and of Zhong et al. (CVPR 2017).

    It squares the distances, as theirs does. It needs a matrix of all images; `RerankedDistances`, which
    TEST.RERANK.ENABLED uses, takes descriptors and gives the same for Euclidean distances.

    Args:
        q_g_dist: distances of queries to the gallery [Q, G].
        q_q_dist: distances among queries [Q, Q].
        g_g_dist: distances among the gallery [G, G].
        k1: number of neighbours that encode an image.
        k2: number of neighbours over whose encodings an image's is averaged; 1 for no average.
        lambda_value: weight of the given distance, the squares of which are divided by the image's greatest one.

    Raises:
        ValueError: wrong shapes, a distance that is negative or not finite, k1 or k2 below 1, a weight outside of 0 to
            1.
    """
    across, queries, gallery = map(_real, (q_g_dist, q_q_dist, g_g_dist))
    sizes = across.shape
    if len(sizes) != 2 or queries.shape != (sizes[0],) * 2 or gallery.shape != (sizes[1],) * 2:
        raise ArgumentError(
            f"re-ranking needs distances [Q, G], [Q, Q] and [G, G], got {list(sizes)}, {list(queries.shape)} and "
            f"{list(gallery.shape)}"
        )
    everyone = np.block([[queries, across], [across.T, gallery]])
    check_all_finite(everyone)
    return RerankedMatrix(_squares(everyone), sizes[0], k1=k1, k2=k2, weight=lambda_value).rows(0, sizes[0])


def _real(distances: ArrayLike) -> np.ndarray:
    """Return distances as float32, if they are that already, or as float64, in which whole numbers can be squared."""
    rows = rows_on_cpu(distances, "distances")
    return rows if isinstance(rows, np.ndarray) and rows.dtype == np.float32 else as_float64(rows)


def _squares(distances: np.ndarray) -> np.ndarray:
    """Return squares in float32, of distances times a power of two that brings them into its range.

    A factor for all of them does not change what `re_ranking` returns.
    """
    least, greatest = distances.min(initial=0.0), distances.max(initial=0.0)
    if least < -_ROUNDING * greatest:
        raise ArgumentError(
            f"re-ranking needs distances, but the least is {least:.6g}: give 1 - s for cosine similarities s"
        )
    exponent = np.frexp(greatest)[1]
    scaled = distances if abs(exponent) < _EXPONENTS else np.ldexp(distances, -exponent)
    return np.square(scaled).astype(np.float32, copy=False)
