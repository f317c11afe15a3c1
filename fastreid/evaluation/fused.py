"""Ranks from features, a block at a time: the matrix of all distances is never held, and no row is sorted.

Average precision, INP and CMC depend on the ranks of a query's few right images alone. So the distances to those are
computed first, and then, for one chunk of the gallery after the other, how many images are nearer than each. Every
distance is one fixed chain of fused multiply-adds (rank_cylib/kernels.h): the figures have the same bits for any number
of threads, block size and instruction set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from fastreid.evaluation.matching import Matches, match_labels
from fastreid.evaluation.progress import progress
from fastreid.evaluation.rank import ranking_of
from fastreid.structures.ranking import Ranking
from fastreid.utils.suggest import explain_choice

MEMORY_BUDGET = 64  # MiB beyond the features
SEGMENT_ROWS = 32_768  # gallery images between two looks at the clock; float32 features are not copied
_EPSILON = 1e-12  # as torch.nn.functional.normalize


Rows = np.ndarray | torch.Tensor


@dataclass(frozen=True)
class Metric:
    """distance = max(lowest, offset(q) + offset(g) + slope * <factor(q) q, factor(g) g>)."""

    slope: float
    lowest: float
    normalizes: bool

    def scale(self, features: np.ndarray, first: int, side: str) -> tuple[np.ndarray, np.ndarray]:
        """float32 factors and offsets [N] of features [N, D].

        Raises:
            ValueError: a row is not finite; `first` is the number of row 0, for the message.
        """
        from fastreid.evaluation.rank_cylib.rank_cy import squared_lengths

        squares = squared_lengths(features)
        limit = np.finfo(np.float32).max
        if not (fine := squares <= limit).all():
            row = first + int(np.argmin(fine))
            raise ValueError(f"the descriptor of {side} image {row} is not finite; did the model diverge?")
        if self.normalizes:
            factors = 1.0 / np.maximum(np.sqrt(squares), _EPSILON)
            return factors.astype(np.float32), np.full(len(squares), 0.5, np.float32)
        return np.ones(len(squares), np.float32), squares.astype(np.float32)


# 0.5 + 0.5 - cosine: one offset for queries and images alike.
METRICS = {
    "cosine": Metric(slope=-1.0, lowest=-np.inf, normalizes=True),
    "euclidean": Metric(slope=-2.0, lowest=0.0, normalizes=False),
}


def is_available() -> bool:
    """Whether the extension is compiled."""
    try:
        from fastreid.evaluation.rank_cylib import rank_cy  # noqa: F401
    except ImportError:
        return False
    return True


def rank_features(
    query: ArrayLike,
    gallery: ArrayLike,
    q_pids: ArrayLike,
    g_pids: ArrayLike,
    q_camids: ArrayLike,
    g_camids: ArrayLike,
    *,
    metric: str = "cosine",
    memory_budget: float = MEMORY_BUDGET,
    num_threads: int | None = None,
    instructions: str | None = None,
) -> Ranking:
    """Score descriptors; what `rank_queries` gives on `distance_rows`, bit for bit.

    Args:
        query, gallery: [Q, D] and [G, D]; float32, or float16 or bfloat16, which are widened a segment at a time.
            Arrays, CPU tensors, or memory-mapped files (`numpy.load(…, mmap_mode="r")`).
        q_pids, g_pids, q_camids, g_camids: integer ids, [Q] and [G].
        metric: "cosine" (1 - cos) or "euclidean" (squared).
        memory_budget: MiB that may be used beside the features; more queries at once are faster up to a point.
        num_threads: torch's if not said.
        instructions: "avx512", "avx2" or "portable"; the widest of this CPU if not said.

    Raises:
        ValueError: shapes, an unknown metric, a descriptor that is not finite.
        NoValidQueryError: no query has a match.
        ImportError: the extension is not built; `rank_queries` needs none.
    """
    from fastreid.evaluation.rank_cylib.rank_cy import Queries

    how, query, gallery = _checked(query, gallery, metric)
    matches = match_labels(q_pids, g_pids, q_camids, g_camids)
    if (len(query), len(gallery)) != (len(matches.num_positives), matches.num_gallery):
        raise ValueError(
            f"{len(query)} query and {len(gallery)} gallery descriptors, but ids of {len(matches.num_positives)} and "
            f"{matches.num_gallery}"
        )
    matches.require_valid_query()
    threads = num_threads or torch.get_num_threads()
    kept = np.delete(np.arange(len(gallery)), matches.junk)
    # Position among the images that are kept: its order is that of the gallery.
    place = np.cumsum(np.bincount(kept, minlength=len(gallery))) - 1

    thresholds, counts = [], []
    rows_at_once = max(256, int(memory_budget * 2**20 / 2 / (4 * query.shape[1])))
    for first in range(0, len(query), rows_at_once):
        part = matches.of_queries(first, min(first + rows_at_once, len(query)))
        rows = _float32(query[first : first + rows_at_once])
        factors, offsets = how.scale(rows, first, "query")
        block = Queries(rows, factors, offsets, slope=how.slope, lowest=how.lowest, instructions=instructions)
        ordered, near, removed = _right_and_removed(block, how, gallery, part, threads)
        to = np.zeros((3, len(near)), dtype=np.int64)
        places = place[ordered]
        for start, images in _segments(gallery, "ranking" if len(query) * len(gallery) > 10**8 else ""):
            factors, offsets = how.scale(images, start, "gallery")
            low, high = np.searchsorted(kept, [start, start + len(images)])
            block.count(
                images, factors, offsets, kept[low:high] - start, low, near, places, part.positive_starts, to, threads
            )
        block.take_off(removed, place[part.removed], part.removed_starts, near, places, part.positive_starts, to)
        thresholds.append(near)
        counts.append(to)
    return ranking_of(np.concatenate(thresholds), np.concatenate(counts, axis=1), matches)


def distance_rows(
    query: ArrayLike,
    gallery: ArrayLike,
    *,
    metric: str = "cosine",
    num_threads: int | None = None,
    instructions: str | None = None,
) -> np.ndarray:
    """Distances float32 [Q, G], with the bits that `rank_features` ranks by. Arguments and errors as there."""
    from fastreid.evaluation.rank_cylib.rank_cy import Queries

    how, query, gallery = _checked(query, gallery, metric)
    rows = _float32(query[:])
    block = Queries(rows, *how.scale(rows, 0, "query"), slope=how.slope, lowest=how.lowest, instructions=instructions)
    out = np.empty((len(query), len(gallery)), dtype=np.float32)
    for start, images in _segments(gallery, ""):
        everyone = np.arange(len(images))
        scales = how.scale(images, start, "gallery")
        block.distances(images, *scales, everyone, out, start, num_threads or torch.get_num_threads())
    return out


def distances_of(
    query: ArrayLike, gallery: ArrayLike, row: int, *, metric: str = "cosine", memory_budget: float = MEMORY_BUDGET
) -> np.ndarray:
    """Distances float32 [G] of one query; they do not depend on the budget."""
    return distance_rows(query[row : row + 1], gallery, metric=metric)[0]


def _right_and_removed(
    block: Any, how: Metric, gallery: Rows, matches: Matches, threads: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gallery rows of the right images in ranked order, their distances, and those of the removed images."""
    query = np.repeat(np.arange(len(matches.num_positives)), matches.num_positives)
    removed_query = np.repeat(np.arange(len(matches.num_positives)), np.diff(matches.removed_starts))
    image_of = np.concatenate([matches.positives, matches.removed])
    query_of = np.concatenate([query, removed_query])
    distances = np.empty(len(image_of), dtype=np.float32)
    by_image = np.argsort(image_of, kind="stable")
    for pairs in np.array_split(by_image, max(1, -(-len(by_image) // 8192))):
        few, first, row_of = _rows_for(gallery, image_of[pairs])
        distances[pairs] = block.pairs(few, *how.scale(few, first, "gallery"), query_of[pairs], row_of, threads)
    right, removed = np.split(distances, [len(query)])
    by_rank = np.lexsort((matches.positives, right, query))
    return matches.positives[by_rank], right[by_rank], removed


def _rows_for(gallery: Rows, images: np.ndarray) -> tuple[np.ndarray, int, np.ndarray]:
    """float32 rows that hold the ascending `images`, the number of the first, and each image's row among them."""
    first, last = (int(images[0]), int(images[-1])) if len(images) else (0, -1)
    if type(gallery) is np.ndarray and gallery.dtype == np.float32 and gallery.flags.c_contiguous:
        return gallery[first : last + 1], first, images - first
    # Of a file on disk, or of what must be widened, only the rows that are needed.
    rows, row_of = np.unique(images, return_inverse=True)
    return _float32(gallery[rows]), first, row_of.astype(np.int64)


def _segments(gallery: Rows, told_as: str) -> Iterator[tuple[int, np.ndarray]]:
    starts = range(0, len(gallery), SEGMENT_ROWS)
    for start in progress(starts, len(starts), told_as) if told_as else starts:
        yield start, _float32(gallery[start : start + SEGMENT_ROWS])


def _checked(query: ArrayLike, gallery: ArrayLike, metric: str) -> tuple[Metric, Rows, Rows]:
    if metric not in METRICS:
        raise ValueError(explain_choice("distance metric (TEST.METRIC)", metric, METRICS))
    query, gallery = _rows(query), _rows(gallery)
    shapes = tuple(query.shape), tuple(gallery.shape)
    if not all(len(shape) == 2 and shape[1] for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise ValueError(
            f"query descriptors {list(shapes[0])} and gallery descriptors {list(shapes[1])} must be [Q, D] and [G, D] "
            "with one D"
        )
    return METRICS[metric], query, gallery


def _rows(features: ArrayLike) -> Rows:
    """Tensors as arrays, but for bfloat16, which NumPy lacks."""
    if isinstance(features, torch.Tensor):
        features = features.detach().cpu()
        return features if features.dtype == torch.bfloat16 else features.numpy()
    return np.asanyarray(features)


def _float32(rows: Rows) -> np.ndarray:
    rows = rows.float().numpy() if isinstance(rows, torch.Tensor) else rows
    return np.ascontiguousarray(rows, dtype=np.float32)
