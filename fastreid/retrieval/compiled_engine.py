"""Distances and rankings by the compiled kernels, block by block, without a distance matrix and without sorting.

Average precision, INP and CMC depend only on the ranks of a query's few positives. The distances to those are computed
first; then the images that are nearer than each are counted, one segment of the gallery after the other. Every distance
is one fixed chain of fused multiply-adds (rank_cylib/products.h), so the figures have the same bits for any number of
threads, block size and instruction set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastreid.retrieval.descriptors import check_pair, rows_on_cpu
from fastreid.retrieval.distances import MEMORY_BUDGET, Counts, Distances, ranking_from, rows_within
from fastreid.retrieval.histogram import PairCounter
from fastreid.retrieval.matches import Matches, match_labels
from fastreid.retrieval.metric import FittedMetric, fit_metric, metric_named
from fastreid.structures.ranking import Ranking
from fastreid.utils.counts import thread_count

SEGMENT_ROWS = 32_768  # gallery images of a segment; float32 features are not copied

Segment = tuple[int, np.ndarray, np.ndarray, np.ndarray]  # first row, features, factors, offsets


def is_available() -> bool:
    """Return whether the extension is compiled."""
    try:
        from fastreid.retrieval.rank_cylib import rank_cy  # noqa: F401
    except Exception:  # an extension that was built for other versions raises anything
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
    """Rank the gallery for every query; the same bits as `rank_queries` on `distance_rows`.

    Args:
        query: descriptors [Q, D]; float32, or other numbers, which are converted a segment at a time. An array, a CPU
            tensor, or a memory-mapped file (`numpy.load(…, mmap_mode="r")`).
        gallery: descriptors [G, D], as `query`.
        q_pids: person ids of the queries, integers [Q].
        g_pids: person ids of the gallery, integers [G].
        q_camids: camera ids of the queries, integers [Q].
        g_camids: camera ids of the gallery, integers [G].
        metric: "cosine" (1 - cos) or "euclidean" (squared).
        memory_budget: MiB that may be used beyond the features; more queries at once are faster up to a point.
        num_threads: default: torch's number.
        instructions: "avx512", "avx2" or "portable"; default: the widest of this CPU.

    Raises:
        ValueError: wrong shapes, an unknown metric, a descriptor that is not finite, an invalid number of threads.
        NoValidQueryError: no query has a match.
        ImportError: the extension is not built; `rank_queries` needs none.
    """
    distances = CompiledDistances(
        query, gallery, metric=metric, num_threads=num_threads, instructions=instructions, memory_budget=memory_budget
    )
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
    """Return the distances float32 [Q, G] that `rank_features` ranks by; arguments and errors as there."""
    distances = CompiledDistances(query, gallery, metric=metric, num_threads=num_threads, instructions=instructions)
    return distances.rows(0, distances.shape[0])


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
        """Check the descriptors and choose the centre; distances are computed when they are used.

        Raises:
            ValueError: as `rank_features`.
        """
        self._threads = thread_count(num_threads)
        self._query, self._gallery = rows_on_cpu(query), rows_on_cpu(gallery)
        check_pair(self._query, self._gallery)
        self._metric = fit_metric(metric_named(metric), self._query, self._gallery)
        self.shape = len(self._query), len(self._gallery)
        self._instructions = instructions
        self._budget = memory_budget * 2**20
        self.rows_at_once = rows_within(memory_budget / 3, 4 * self.shape[1], max(1, self.shape[0]))
        self._scales: tuple[np.ndarray, np.ndarray] | None = None  # of the gallery, after the first pass over it

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """Two numbers between which most distances lie."""
        metric = self._metric.metric
        if metric.normalizes:
            return metric.bounds(1.0)
        greatest = max((offsets.max() for *_, offsets in self._segments("")), default=np.float32(0))
        for start in range(0, self.shape[0], rows := self._converted_rows(SEGMENT_ROWS)):
            images = self._metric.read(self._query[start : start + rows])
            greatest = max(greatest, self._metric.scales(images, start, "query image", self._threads)[2].max())
        return metric.bounds(float(greatest))

    def block(self, first: int, stop: int, out: Any = None) -> np.ndarray:
        """Return distances [stop - first, G] of queries `first` to `stop` - 1."""
        return self._block_of(np.arange(first, stop), out)

    def _block_of(self, rows: np.ndarray, out: Any = None) -> np.ndarray:
        """Return the distances [queries, G] of some queries."""
        out = np.empty((len(rows), self.shape[1]), dtype=np.float32) if out is None else out[: len(rows)]
        if len(rows):
            queries = self._queries(rows)
            for start, images, factors, offsets in self._segments(""):
                queries.distances(images, factors, offsets, np.arange(len(images)), out, start, self._threads)
        return out

    def rows_of(self, queries: np.ndarray, description: str = "") -> Iterator[tuple[int, np.ndarray]]:
        """Yield some queries, each with its distances [G]; no others are computed, as bits do not depend on a block."""
        for start in self.with_progress(range(0, len(queries), self.rows_at_once), description):
            chosen = queries[start : start + self.rows_at_once]
            yield from zip(chosen.tolist(), self._block_of(chosen), strict=True)

    def row(self, query: int) -> np.ndarray:
        """Return the distances [G] of one query."""
        return self.block(query, query + 1)[0]  # a row's bits do not depend on its block

    def rank_each(self, several: Sequence[Matches]) -> list[Ranking]:
        """Rank several sets of matches; those with the same scored queries share one pass over the gallery."""
        groups: dict[bytes, list[int]] = {}
        for number, matches in enumerate(several):
            matches.check_sizes(*self.shape)
            groups.setdefault(np.flatnonzero(matches.num_positives).tobytes(), []).append(number)
        rankings: dict[int, Ranking] = {}
        for numbers in groups.values():
            rankings |= zip(numbers, self._rank_group([several[number] for number in numbers]), strict=True)
        return [rankings[number] for number in range(len(several))]

    def _rank_group(self, several: Sequence[Matches]) -> list[Ranking]:
        counted: list[list[Counts]] = [[] for _ in several]
        positions = [_Positions.of(matches) for matches in several]
        for rows, queries in self._query_blocks(several[0]):
            blocks = []
            for matches, where in zip(several, positions, strict=True):
                part = matches.select(rows)
                blocks.append(_CountedBlock(part, where, *self._near_images(queries, part)))
            for segment in self._segments("ranking"):
                for block in blocks:
                    block.add(queries, segment, self._threads)
                del segment
            for block, parts in zip(blocks, counted, strict=True):
                parts.append(block.read(queries))
        return [ranking_from(parts, matches) for parts, matches in zip(counted, several, strict=True)]

    def same_person(self, matches: Matches) -> tuple[np.ndarray, np.ndarray]:
        """Return the distances to the positives and to the removed images, in the order of `matches`."""
        matches.check_sizes(*self.shape)
        found = [
            self._near_images(queries, matches.select(rows), sort=False)
            for rows, queries in self._query_blocks(matches, all_queries=True)
        ]
        return np.concatenate([near for _, near, _ in found]), np.concatenate([removed for _, _, removed in found])

    def count_pairs(self, counter: PairCounter, matches: Matches) -> None:
        """Add all distances but those to junk to a counter."""
        kept = matches.kept
        for _, queries in self._query_blocks(matches, all_queries=True):
            for start, images, factors, offsets in self._segments("counting pairs"):
                low, high = np.searchsorted(kept, [start, start + len(images)])
                queries.add_to(counter.on_cpu, images, factors, offsets, kept[low:high] - start)
                del images

    def _query_blocks(self, matches: Matches, all_queries: bool = False) -> Iterator[tuple[np.ndarray, Any]]:
        """Yield rows of queries with a positive, or of all, and those queries packed; as many as fit."""
        block_rows = max(256, rows_within(self._budget / 2**20 / 2, 4 * self._query.shape[1], self.shape[0]))
        wanted = np.arange(self.shape[0]) if all_queries else np.flatnonzero(matches.num_positives)
        for start in range(0, len(wanted), block_rows):
            rows = wanted[start : start + block_rows]
            yield rows, self._queries(rows)

    def _queries(self, rows: np.ndarray) -> Any:
        from fastreid.retrieval.rank_cylib.rank_cy import Queries

        first, last = int(rows[0]), int(rows[-1])
        is_range = last - first == len(rows) - 1
        features = self._metric.read(self._query[first : last + 1] if is_range else self._query[rows])
        scaled = self._metric.scales(features, rows, "query image", self._threads)
        return Queries(*scaled, **kernel_options(self._metric), instructions=self._instructions)

    def _segments(self, description: str) -> Iterator[Segment]:
        """Yield the gallery segment by segment; factors and offsets are cached in the first pass."""
        is_ready = self._metric.is_ready(self._gallery)
        rows = SEGMENT_ROWS if is_ready else self._converted_rows(SEGMENT_ROWS)
        starts = range(0, self.shape[1], rows)
        found: list[tuple[np.ndarray, np.ndarray]] | None = [] if self._scales is None else None
        for start in self.with_progress(starts, description):
            images = self._metric.read(self._gallery[start : start + rows])
            if self._scales is None:
                features, factors, offsets = self._metric.scales(images, start, "gallery image", self._threads)
                # Rows that had to be copied (very short ones) must be copied in every pass.
                found = None if found is None or features is not images else [*found, (factors, offsets)]
            else:
                features, (factors, offsets) = images, (values[start : start + rows] for values in self._scales)
            del images
            yield start, features, factors, offsets
            del features
        if found:
            factors, offsets = (np.concatenate(values) for values in zip(*found, strict=True))
            self._metric.check_spread(offsets)
            self._scales = factors, offsets

    def _converted_rows(self, limit: int) -> int:
        """Return how many rows may be converted together; two such parts are held at the same time."""
        return rows_within(self._budget / 2**20 / 4, 4 * self._gallery.shape[1], limit)

    def _near_images(
        self, queries: Any, matches: Matches, sort: bool = True
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the positives' gallery rows in ranked order, their distances, and those of the removed images."""
        query = np.repeat(np.arange(len(matches.num_positives)), matches.num_positives)
        removed_query = np.repeat(np.arange(len(matches.num_positives)), np.diff(matches.removed_starts))
        image_of = np.concatenate([matches.positives, matches.removed])
        query_of = np.concatenate([query, removed_query])
        distances = np.empty(len(image_of), dtype=np.float32)
        by_image = np.argsort(image_of, kind="stable")
        for pairs in np.array_split(by_image, max(1, -(-len(by_image) // self._converted_rows(8192)))):
            features, rows, row_of = self._rows_for(image_of[pairs])
            features, factors, offsets = self._metric.scales(features, rows, "gallery image", self._threads)
            distances[pairs] = queries.pairs(features, factors, offsets, query_of[pairs], row_of, self._threads)
        near, removed = np.split(distances, [len(query)])
        if not sort:
            return matches.positives, near, removed
        by_rank = np.lexsort((matches.positives, near, query))
        return matches.positives[by_rank], near[by_rank], removed

    def _rows_for(self, images: np.ndarray) -> tuple[np.ndarray, int | np.ndarray, np.ndarray]:
        """Return float32 gallery rows with the ascending `images`, the numbers of the rows, and each image's row.

        Where the rows are consecutive, the number of the first stands for their numbers.
        """
        first, last = (int(images[0]), int(images[-1])) if len(images) else (0, -1)
        if self._metric.is_ready(self._gallery):
            return np.asarray(self._gallery[first : last + 1]), first, images - first
        # If rows must be read from disk or converted: only those that are needed.
        rows, row_of = np.unique(images, return_inverse=True)
        return self._metric.read(self._gallery[rows]), rows, row_of.astype(np.int64)


@dataclass(frozen=True)
class _Positions:
    """Gallery images that are kept, and the position of every image among them; the order is that of the gallery."""

    kept: np.ndarray
    of_image: np.ndarray

    @classmethod
    def of(cls, matches: Matches) -> _Positions:
        kept = matches.kept
        return cls(kept, np.cumsum(np.bincount(kept, minlength=matches.num_gallery)) - 1)


class _CountedBlock:
    """Counts, for the positives of a block of queries, the images that are nearer than each."""

    def __init__(
        self, matches: Matches, positions: _Positions, ranked: np.ndarray, near: np.ndarray, removed: np.ndarray
    ) -> None:
        """Initialize counts of zero.

        Args:
            matches: matches of the block's queries.
            positions: positions of the gallery images that take part.
            ranked: gallery rows of the positives in ranked order.
            near: distances of the positives in ranked order.
            removed: distances of the removed images.
        """
        self._matches, self._positions = matches, positions
        self._near, self._removed = near, removed
        self._places = positions.of_image[ranked]
        self._counts = np.zeros((3, len(near)), dtype=np.int64)

    def add(self, queries: Any, segment: Segment, num_threads: int) -> None:
        """Count the images of one gallery segment."""
        start, images, factors, offsets = segment
        low, high = np.searchsorted(self._positions.kept, [start, start + len(images)])
        rows, starts = self._positions.kept[low:high] - start, self._matches.positive_starts
        queries.count(
            images, factors, offsets, rows, low, self._near, self._places, starts, self._counts, num_threads
        )  # fmt: skip

    def read(self, queries: Any) -> Counts:
        """Return the distances of the positives and their counts, without the removed images."""
        positions = self._positions.of_image[self._matches.removed]
        queries.take_off(
            self._removed, positions, self._matches.removed_starts,
            self._near, self._places, self._matches.positive_starts, self._counts,
        )  # fmt: skip
        return self._near, self._counts


def kernel_options(metric: FittedMetric) -> dict[str, Any]:
    """Return the arguments of `rank_cy.Queries` that define the distance."""
    centre = metric.centre if metric.centre.any() else None  # a centre of zero needs no subtraction
    return {"centre": centre, "slope": metric.metric.slope, "lowest": metric.lowest}
