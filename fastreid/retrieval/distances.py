"""Distances: the interface to the distances of all queries to all gallery images, computed a few rows at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from fastreid.retrieval.descriptors import matrix_on_cpu
from fastreid.retrieval.histogram import PairCounter
from fastreid.retrieval.matches import Matches
from fastreid.retrieval.ranking import check_all_finite, count_matrix, ranking_of
from fastreid.structures.ranking import Ranking
from fastreid.utils.progress import progress

MEMORY_BUDGET = 64  # MiB beyond the features
LOGGED_PAIRS = 10**8  # number of distances from which on progress is logged

Counts = tuple[np.ndarray, np.ndarray]  # of some queries, as `count_matrix` returns them


class Distances(ABC):
    """Distances [Q, G], computed a few rows at a time; all results are computed from the same bits.

    Attributes:
        shape: (Q, G).
        rows_at_once: number of queries whose rows fit into the memory budget.
    """

    shape: tuple[int, int]
    rows_at_once: int

    @property
    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """Two numbers between which most distances lie."""

    @abstractmethod
    def block(self, first: int, stop: int, out: Any = None) -> Any:
        """Return distances [stop - first, G] of queries `first` to `stop` - 1: an array, or a tensor on any device.

        Args:
            first: the first query.
            stop: the query after the last.
            out: a block of at least as many rows that may be overwritten, or None.
        """

    def rows(self, first: int, stop: int, out: Any = None) -> np.ndarray:
        """Return the same as `block` as an array."""
        block = self.block(first, stop, out)
        return block.cpu().numpy() if isinstance(block, torch.Tensor) else np.asarray(block)

    def row(self, query: int) -> np.ndarray:
        """Return the distances [G] of one query."""
        first = query // self.rows_at_once * self.rows_at_once  # a library's product may differ in another block
        return self.rows(first, min(first + self.rows_at_once, self.shape[0]))[query - first]

    def blocks(self, description: str = "", wanted: np.ndarray | None = None) -> Iterator[tuple[int, Any]]:
        """Yield the number of a block's first query and the block, for all queries; each overwrites the one before.

        Args:
            description: what is logged of the progress if there are many distances; "" for no log.
            wanted: bool [Q]; blocks without a wanted query are skipped.

        Raises:
            ValueError: names a distance that is not finite.
        """
        starts: Sequence[int] = range(0, self.shape[0], self.rows_at_once)
        if wanted is not None:
            starts = [start for start in starts if wanted[start : start + self.rows_at_once].any()]
        buffer = None
        for first in self.with_progress(starts, description):
            block = self.block(first, min(first + self.rows_at_once, self.shape[0]), buffer)
            buffer = block if buffer is None else buffer
            check_all_finite(block, first)
            yield first, block

    def rows_of(self, queries: np.ndarray, description: str = "") -> Iterator[tuple[int, np.ndarray]]:
        """Yield some queries, ascending row numbers, each with its distances [G], which the next ones may overwrite.

        Args:
            queries: row numbers.
            description: as `blocks`.
        """
        wanted = np.zeros(self.shape[0], dtype=bool)
        wanted[queries] = True
        for first, block in self.blocks(description, wanted):
            for row in np.flatnonzero(wanted[first : first + len(block)]).tolist():
                yield first + row, block[row].cpu().numpy() if isinstance(block, torch.Tensor) else block[row]

    def with_progress(self, starts: Sequence[int], description: str) -> Iterable[int]:
        """Iterate over `starts` and log the progress if there are many distances and a description."""
        is_logged = description and self.shape[0] * self.shape[1] > LOGGED_PAIRS
        return progress(starts, len(starts), description) if is_logged else starts

    def rank(self, matches: Matches) -> Ranking:
        """Rank the positives of every query.

        Raises:
            ValueError: a distance is not finite, or the labels belong to other numbers of images.
        """
        return self.rank_each([matches])[0]

    def rank_each(self, several: Sequence[Matches]) -> list[Ranking]:
        """Do as `rank` for several sets of matches, which score other queries or other gallery images."""
        for matches in several:
            matches.check_sizes(*self.shape)
        parts: list[list[Counts]] = [[] for _ in several]
        is_scored = np.any([matches.num_positives > 0 for matches in several], axis=0)
        for first, block in self.blocks("ranking", is_scored):
            for part, matches in zip(parts, several, strict=True):
                block_matches = matches.of_queries(first, first + len(block))
                part.append(count_matrix(block, block_matches, checked=True))
        return [ranking_from(part, matches) for part, matches in zip(parts, several, strict=True)]

    def same_person(self, matches: Matches) -> tuple[np.ndarray, np.ndarray]:
        """Return the distances to the positives and to the removed images, in the order of `matches`."""
        matches.check_sizes(*self.shape)
        positive, removed = [], []
        for first, block in self.blocks("measuring positives"):
            part = matches.of_queries(first, first + len(block))
            positive.append(_entries(block, part.positives, part.positive_starts))
            removed.append(_entries(block, part.removed, part.removed_starts))
        return np.concatenate(positive), np.concatenate(removed)

    def count_pairs(self, counter: PairCounter, matches: Matches) -> None:
        """Add all distances but those to junk to a counter."""
        kept = matches.kept
        for _, block in self.blocks("counting pairs"):
            counter.add(block if len(kept) == matches.num_gallery else block[:, kept])


def _entries(block: Any, images: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the distances of each row of a block to its own images."""
    row = np.repeat(np.arange(len(block)), np.diff(starts))
    if isinstance(block, torch.Tensor):
        entries = torch.from_numpy(row).to(block.device), torch.from_numpy(images).to(block.device)
        return block[entries].cpu().numpy()
    return np.asarray(block[row, images])


def ranking_from(parts: Sequence[Counts], matches: Matches) -> Ranking:
    """Return the ranking of counts that were computed block by block (`count_matrix`)."""
    if not parts:
        parts = [(np.zeros(0, np.float32), np.zeros((3, 0), np.int64))]
    thresholds, counts = zip(*parts, strict=True)
    return ranking_of(np.concatenate(thresholds), np.concatenate(counts, axis=1), matches)


def rows_within(memory_budget: float, bytes_per_row: int, limit: int) -> int:
    """Return how many rows fit into a budget in MiB; at least one, at most `limit`."""
    return max(1, int(min(limit, memory_budget * 2**20 / max(1, bytes_per_row))))


class MatrixDistances(Distances):
    """Distances given as a matrix [Q, G]; a memory-mapped file stays one."""

    def __init__(self, matrix: ArrayLike, *, memory_budget: float = MEMORY_BUDGET) -> None:
        """Check the matrix.

        Raises:
            ValueError: it is not a matrix of real numbers.
        """
        self._matrix: Any = matrix_on_cpu(matrix)
        if self._matrix.ndim != 2:
            raise ValueError(f"distances must be a matrix [Q, G], got shape {list(self._matrix.shape)}")
        self.shape = self._matrix.shape[0], self._matrix.shape[1]
        self.rows_at_once = rows_within(memory_budget, 2 * 8 * self.shape[1], max(1, self.shape[0]))

    @cached_property
    def bounds(self) -> tuple[float, float]:  # type: ignore[override]  # cached
        """Least and greatest distance."""
        ends = [(float(block.min()), float(block.max())) for _, block in self.blocks() if block.size]
        low, high = np.float32(min((end[0] for end in ends), default=0)), max((end[1] for end in ends), default=1)
        # If all distances are equal: bins that float32 can tell apart.
        return float(low), float(max(np.float32(high), low + max(np.float32(1e-6), np.float32(1e-6) * abs(low))))

    def block(self, first: int, stop: int, out: Any = None) -> np.ndarray:
        """Return rows `first` to `stop` - 1, which must not be written to."""
        rows = self._matrix[first:stop].view()
        rows.flags.writeable = False  # the caller's matrix
        return rows
