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
from numpy.typing import ArrayLike

from fastreid.retrieval.coordinates import Space, space_of
from fastreid.retrieval.distances import MANY_PAIRS, MEMORY_BUDGET, Distances, ranking_from, rows_within
from fastreid.retrieval.histogram import PairCounter
from fastreid.retrieval.matching import Matches, match_labels
from fastreid.retrieval.metric import as_rows, check_pair, metric_named
from fastreid.structures.ranking import Ranking
from fastreid.utils.counts import thread_count
from fastreid.utils.progress import progress

SEGMENT_ROWS = 32_768  # gallery images between two looks at the clock; float32 features are not copied


def is_available() -> bool:
    """Whether the extension is compiled."""
    try:
        from fastreid.retrieval.rank_cylib import rank_cy  # noqa: F401
    except Exception:  # one that was built for other versions raises anything
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
        query, gallery: [Q, D] and [G, D]; float32, or other numbers, which are converted a segment at a time.
            Arrays, CPU tensors, or memory-mapped files (`numpy.load(…, mmap_mode="r")`).
        q_pids, g_pids, q_camids, g_camids: integer ids, [Q] and [G].
        metric: "cosine" (1 - cos) or "euclidean" (squared).
        memory_budget: MiB that may be used beside the features; more queries at once are faster up to a point.
        num_threads: torch's if not said.
        instructions: "avx512", "avx2" or "portable"; the widest of this CPU if not said.

    Raises:
        ValueError: shapes, an unknown metric, a descriptor that is not finite, an impossible number of threads.
        NoValidQueryError: no query has a match.
        ImportError: the extension is not built; `rank_queries` needs none.
    """
    options = {"num_threads": num_threads, "instructions": instructions, "memory_budget": memory_budget}
    distances = CompiledDistances(query, gallery, metric=metric, **options)
    matches = match_labels(q_pids, g_pids, q_camids, g_camids)
    matches.check_sizes(*distances.shape)
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
    distances = CompiledDistances(query, gallery, metric=metric, num_threads=num_threads, instructions=instructions)
    return distances.rows(0, len(query))


class CompiledDistances(Distances):
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
        self._threads = thread_count(num_threads)
        self._query, self._gallery = as_rows(query), as_rows(gallery)
        check_pair(self._query, self._gallery)
        self._space = space_of(metric_named(metric), self._query, self._gallery)
        self.shape = len(self._query), len(self._gallery)
        self._instructions = instructions
        self._budget = memory_budget * 2**20
        self.rows_at_once = rows_within(memory_budget / 3, 4 * self.shape[1], max(1, self.shape[0]))
        self._scales: tuple[np.ndarray, np.ndarray] | None = None  # of the gallery, once all were needed

    @cached_property
    def bounds(self) -> tuple[float, float]:
        metric = self._space.metric
        if metric.normalizes:
            return metric.bounds(1.0)
        greatest = max((own.max() for *_, own in self._segments("")), default=np.float32(0))
        for start in range(0, self.shape[0], rows := self._widened_rows(SEGMENT_ROWS)):
            images = self._space.read(self._query[start : start + rows])
            greatest = max(greatest, self._space.scales(images, start, "query image", self._threads)[2].max())
        return metric.bounds(float(greatest))

    def block(self, first: int, stop: int, out: Any = None) -> np.ndarray:
        out = np.empty((stop - first, self.shape[1]), dtype=np.float32) if out is None else out[: stop - first]
        if stop > first:
            queries = self._queries(np.arange(first, stop))
            for start, images, factors, offsets in self._segments(""):
                queries.distances(images, factors, offsets, np.arange(len(images)), out, start, self._threads)
        return out

    def row(self, query: int) -> np.ndarray:
        return self.block(query, query + 1)[0]  # alone, as a row's bits do not depend on its block

    def rank_each(self, several: Sequence[Matches]) -> list[Ranking]:
        """Matches of the same queries go through the gallery together."""
        alike: dict[bytes, list[int]] = {}
        for number, matches in enumerate(several):
            matches.check_sizes(*self.shape)
            alike.setdefault(np.flatnonzero(matches.num_positives).tobytes(), []).append(number)
        rankings: dict[int, Ranking] = {}
        for numbers in alike.values():
            rankings |= zip(numbers, self._rank_alike([several[number] for number in numbers]), strict=True)
        return [rankings[number] for number in range(len(several))]

    def _rank_alike(self, several: Sequence[Matches]) -> list[Ranking]:
        counted: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in several]
        kept = [matches.kept for matches in several]
        # Position among the images that are kept: its order is that of the gallery.
        place = [np.cumsum(np.bincount(images, minlength=self.shape[1])) - 1 for images in kept]
        for rows, queries in self._query_blocks(several[0]):
            parts = [matches.select(rows) for matches in several]
            found = [self._right_and_removed(queries, part) for part in parts]
            to = [np.zeros((3, len(near)), dtype=np.int64) for _, near, _ in found]
            for start, images, factors, offsets in self._segments("ranking"):
                for part, (ordered, near, _), counts, mine, at in zip(parts, found, to, kept, place, strict=True):
                    low, high = np.searchsorted(mine, [start, start + len(images)])
                    among, places = mine[low:high] - start, at[ordered]
                    starts = part.positive_starts
                    queries.count(images, factors, offsets, among, low, near, places, starts, counts, self._threads)
                del images
            for part, (ordered, near, removed), counts, at, done in zip(parts, found, to, place, counted, strict=True):
                where = at[part.removed], part.removed_starts
                queries.take_off(removed, *where, near, at[ordered], part.positive_starts, counts)
                done.append((near, counts))
        return [ranking_from(done, matches) for done, matches in zip(counted, several, strict=True)]

    def same_person(self, matches: Matches) -> tuple[np.ndarray, np.ndarray]:
        matches.check_sizes(*self.shape)
        found = [
            self._right_and_removed(queries, matches.select(rows), sort=False)
            for rows, queries in self._query_blocks(matches, all_queries=True)
        ]
        return np.concatenate([right for _, right, _ in found]), np.concatenate([removed for _, _, removed in found])

    def count_pairs(self, counter: PairCounter, matches: Matches) -> None:
        kept = matches.kept
        for _, queries in self._query_blocks(matches, all_queries=True):
            for start, images, factors, offsets in self._segments("counting pairs"):
                low, high = np.searchsorted(kept, [start, start + len(images)])
                queries.add_to(counter.on_cpu, images, factors, offsets, kept[low:high] - start)
                del images

    def _query_blocks(self, matches: Matches, all_queries: bool = False) -> Iterator[tuple[np.ndarray, Any]]:
        """Rows of queries that have a right image, or of all, and those queries packed; as many as fit."""
        at_once = max(256, rows_within(self._budget / 2**20 / 2, 4 * self._query.shape[1], self.shape[0]))
        asked = np.arange(self.shape[0]) if all_queries else np.flatnonzero(matches.num_positives)
        for start in range(0, len(asked), at_once):
            rows = asked[start : start + at_once]
            yield rows, self._queries(rows)

    def _queries(self, rows: np.ndarray) -> Any:
        from fastreid.retrieval.rank_cylib.rank_cy import Queries

        first, last = int(rows[0]), int(rows[-1])
        is_range = last - first == len(rows) - 1
        features = self._space.read(self._query[first : last + 1] if is_range else self._query[rows])
        scaled = self._space.scales(features, rows, "query image", self._threads)
        return Queries(*scaled, **kernel_options(self._space), instructions=self._instructions)

    def _segments(self, told_as: str) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        """First row, features, factors and offsets of one part of the gallery after the other."""
        is_ready = self._space.is_ready(self._gallery)
        rows = SEGMENT_ROWS if is_ready else self._widened_rows(SEGMENT_ROWS)
        starts = range(0, self.shape[1], rows)
        many = told_as and self.shape[0] * self.shape[1] > MANY_PAIRS
        found: list[tuple[np.ndarray, np.ndarray]] | None = [] if self._scales is None else None
        for start in progress(starts, len(starts), told_as) if many else starts:
            images = self._space.read(self._gallery[start : start + rows])
            if self._scales is None:
                scaled = self._space.scales(images, start, "gallery image", self._threads)
                # Rows that were copied once more need it each time.
                found = None if found is None or scaled[0] is not images else [*found, scaled[1:]]
            else:
                scaled = images, *(values[start : start + rows] for values in self._scales)
            del images
            yield start, *scaled
            del scaled
        if found:
            factors, offsets = (np.concatenate(values) for values in zip(*found, strict=True))
            self._space.check_spread(offsets)
            self._scales = factors, offsets

    def _widened_rows(self, limit: int) -> int:
        """How many may be widened together: the next are while these are still looked at."""
        return rows_within(self._budget / 2**20 / 4, 4 * self._gallery.shape[1], limit)

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
        for pairs in np.array_split(by_image, max(1, -(-len(by_image) // self._widened_rows(8192)))):
            few, rows, row_of = self._rows_for(image_of[pairs])
            few, factors, offsets = self._space.scales(few, rows, "gallery image", self._threads)
            distances[pairs] = queries.pairs(few, factors, offsets, query_of[pairs], row_of, self._threads)
        right, removed = np.split(distances, [len(query)])
        if not sort:
            return matches.positives, right, removed
        by_rank = np.lexsort((matches.positives, right, query))
        return matches.positives[by_rank], right[by_rank], removed

    def _rows_for(self, images: np.ndarray) -> tuple[np.ndarray, int | np.ndarray, np.ndarray]:
        """float32 gallery rows that hold the ascending `images`, their numbers or the first's, and each image's row."""
        first, last = (int(images[0]), int(images[-1])) if len(images) else (0, -1)
        if self._space.is_ready(self._gallery):
            return self._gallery[first : last + 1], first, images - first
        # Of a file on disk, or of what must be converted, only the rows that are needed.
        rows, row_of = np.unique(images, return_inverse=True)
        return self._space.read(self._gallery[rows]), rows, row_of.astype(np.int64)


def kernel_options(space: Space) -> dict[str, Any]:
    """Arguments of `rank_cy.Queries` about distances."""
    centre = space.centre if space.centre.any() else None  # zero needs no work
    return {"centre": centre, "slope": space.metric.slope, "lowest": space.lowest}
