"""Ranks from features, a block at a time: the matrix of all distances is never held, and no row is sorted.

Average precision, INP and CMC depend on the ranks of a query's few right images alone. So the distances to those are
computed first, and then, for one chunk of the gallery after the other, how many images are nearer than each. Every
distance is one fixed chain of fused multiply-adds (rank_cylib/kernels.h): the figures have the same bits for any number
of threads, block size and instruction set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from fastreid.evaluation.distances import MANY_PAIRS, MEMORY_BUDGET, Distances, ranking_from
from fastreid.evaluation.histogram import PairCounter
from fastreid.evaluation.matching import Matches, match_labels
from fastreid.evaluation.metric import Rows, as_float32, as_rows, check_finite, check_pair, metric_named
from fastreid.evaluation.progress import progress
from fastreid.structures.ranking import Ranking

SEGMENT_ROWS = 32_768  # gallery images between two looks at the clock; float32 features are not copied


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
    options = {"num_threads": num_threads, "instructions": instructions, "memory_budget": memory_budget}
    distances = FusedDistances(query, gallery, metric=metric, **options)
    matches = match_labels(q_pids, g_pids, q_camids, g_camids)
    distances.check(matches)
    matches.require_valid_query()
    return distances.rank(matches)


def distance_rows(
    query: ArrayLike,
    gallery: ArrayLike,
    *,
    metric: str = "cosine",
    num_threads: int | None = None,
    instructions: str | None = None,
) -> np.ndarray:
    """Distances float32 [Q, G], with the bits that `rank_features` ranks by. Arguments and errors as there."""
    distances = FusedDistances(query, gallery, metric=metric, num_threads=num_threads, instructions=instructions)
    return distances.rows(0, len(query))


class FusedDistances(Distances):
    """Distances of descriptors by the compiled kernels; arguments and errors as `rank_features`."""

    def __init__(
        self,
        query: ArrayLike,
        gallery: ArrayLike,
        *,
        metric: str = "cosine",
        memory_budget: float = MEMORY_BUDGET,
        num_threads: int | None = None,
        instructions: str | None = None,
    ) -> None:
        self._metric = metric_named(metric)
        self._query, self._gallery = as_rows(query), as_rows(gallery)
        check_pair(self._query, self._gallery)
        self.shape = len(self._query), len(self._gallery)
        self._threads = num_threads or torch.get_num_threads()
        self._instructions = instructions
        self._budget = memory_budget * 2**20
        self.rows_at_once = max(1, int(self._budget / (3 * 4 * max(1, self.shape[1]))))

    @cached_property
    def bounds(self) -> tuple[float, float]:
        return self._metric.bounds(max(_longest(self._query), _longest(self._gallery)))

    def block(self, first: int, stop: int, out: Any = None) -> np.ndarray:
        out = np.empty((stop - first, self.shape[1]), dtype=np.float32) if out is None else out[: stop - first]
        queries = self._queries(np.arange(first, stop))
        for start, images, factors, offsets in self._segments(""):
            queries.distances(images, factors, offsets, np.arange(len(images)), out, start, self._threads)
        return out

    def row(self, query: int) -> np.ndarray:
        return self.block(query, query + 1)[0]  # alone, as a row's bits do not depend on its block

    def rank_each(self, several: Sequence[Matches]) -> list[Ranking]:
        return [self._rank(matches) for matches in several]

    def _rank(self, matches: Matches) -> Ranking:
        self.check(matches)
        kept = matches.kept
        # Position among the images that are kept: its order is that of the gallery.
        place = np.cumsum(np.bincount(kept, minlength=self.shape[1])) - 1
        parts = []
        for part, queries in self._query_blocks(matches):
            ordered, near, removed = self._right_and_removed(queries, part)
            to = np.zeros((3, len(near)), dtype=np.int64)
            places = place[ordered]
            starts = part.positive_starts
            for start, images, factors, offsets in self._segments("ranking"):
                low, high = np.searchsorted(kept, [start, start + len(images)])
                rows = kept[low:high] - start
                queries.count(images, factors, offsets, rows, low, near, places, starts, to, self._threads)
            queries.take_off(removed, place[part.removed], part.removed_starts, near, places, starts, to)
            parts.append((near, to))
        return ranking_from(parts, matches)

    def same_person(self, matches: Matches) -> tuple[np.ndarray, np.ndarray]:
        self.check(matches)
        blocks = self._query_blocks(matches, all_queries=True)
        found = [self._right_and_removed(queries, part, sort=False) for part, queries in blocks]
        return np.concatenate([right for _, right, _ in found]), np.concatenate([removed for _, _, removed in found])

    def count_pairs(self, counter: PairCounter, matches: Matches) -> None:
        kept = matches.kept
        for _, queries in self._query_blocks(matches, all_queries=True):
            for start, images, factors, offsets in self._segments("counting pairs"):
                low, high = np.searchsorted(kept, [start, start + len(images)])
                queries.add_to(counter.on_cpu, images, factors, offsets, kept[low:high] - start)

    def _query_blocks(self, matches: Matches, all_queries: bool = False) -> Iterator[tuple[Matches, Any]]:
        """Matches and packed queries, as many as fit: those that have a right image, or all."""
        at_once = max(256, int(self._budget / 2 / (4 * self._query.shape[1])))
        asked = np.arange(self.shape[0]) if all_queries else np.flatnonzero(matches.num_positives)
        for start in range(0, len(asked), at_once):
            rows = asked[start : start + at_once]
            yield matches.select(rows), self._queries(rows)

    def _queries(self, rows: np.ndarray) -> Any:
        from fastreid.evaluation.rank_cylib.rank_cy import Queries

        first, last = int(rows[0]), int(rows[-1])
        is_range = last - first == len(rows) - 1
        features = as_float32(self._query[first : last + 1] if is_range else self._query[rows])
        factors, offsets = self._scales(features, first, "query image")
        how = {"slope": self._metric.slope, "lowest": self._metric.lowest, "instructions": self._instructions}
        return Queries(features, factors, offsets, **how)

    def _scales(self, features: np.ndarray, first: int, side: str) -> tuple[np.ndarray, np.ndarray]:
        return scales(self._metric, features, first, side)

    def _segments(self, told_as: str) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        starts = range(0, self.shape[1], SEGMENT_ROWS)
        many = told_as and self.shape[0] * self.shape[1] > MANY_PAIRS
        for start in progress(starts, len(starts), told_as) if many else starts:
            images = as_float32(self._gallery[start : start + SEGMENT_ROWS])
            yield start, images, *self._scales(images, start, "gallery image")

    def _right_and_removed(
        self, queries: Any, matches: Matches, sort: bool = True
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Gallery rows of the right images in ranked order, their distances, and those of the removed images."""
        query = np.repeat(np.arange(len(matches.num_positives)), matches.num_positives)
        removed_query = np.repeat(np.arange(len(matches.num_positives)), np.diff(matches.removed_starts))
        image_of = np.concatenate([matches.positives, matches.removed])
        query_of = np.concatenate([query, removed_query])
        distances = np.empty(len(image_of), dtype=np.float32)
        by_image = np.argsort(image_of, kind="stable")
        for pairs in np.array_split(by_image, max(1, -(-len(by_image) // 8192))):
            few, first, row_of = _rows_for(self._gallery, image_of[pairs])
            factors, offsets = self._scales(few, first, "gallery image")
            distances[pairs] = queries.pairs(few, factors, offsets, query_of[pairs], row_of, self._threads)
        right, removed = np.split(distances, [len(query)])
        if not sort:
            return matches.positives, right, removed
        by_rank = np.lexsort((matches.positives, right, query))
        return matches.positives[by_rank], right[by_rank], removed


def scales(metric: Any, features: np.ndarray, first: int, side: str) -> tuple[np.ndarray, np.ndarray]:
    """float32 factors and offsets [N] of features [N, D] (`Metric`).

    Raises:
        ValueError: a row is not finite; `first` is the number of row 0, for the message.
    """
    from fastreid.evaluation.rank_cylib.rank_cy import squared_lengths

    squares = squared_lengths(features)
    check_finite(squares, first, side)
    return metric.scales_of(squares)


def _longest(features: Rows) -> float:
    """Greatest squared length."""
    from fastreid.evaluation.rank_cylib.rank_cy import squared_lengths

    parts = (as_float32(features[start : start + SEGMENT_ROWS]) for start in range(0, len(features), SEGMENT_ROWS))
    return max((float(squared_lengths(part).max()) for part in parts), default=0.0)


def _rows_for(gallery: Rows, images: np.ndarray) -> tuple[np.ndarray, int, np.ndarray]:
    """float32 rows that hold the ascending `images`, the number of the first, and each image's row among them."""
    first, last = (int(images[0]), int(images[-1])) if len(images) else (0, -1)
    if type(gallery) is np.ndarray and gallery.dtype == np.float32 and gallery.flags.c_contiguous:
        return gallery[first : last + 1], first, images - first
    # Of a file on disk, or of what must be widened, only the rows that are needed.
    rows, row_of = np.unique(images, return_inverse=True)
    return as_float32(gallery[rows]), first, row_of.astype(np.int64)
