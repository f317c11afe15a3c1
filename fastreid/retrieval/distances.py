"""What is scored: the distances of all queries to all gallery images, which nobody needs to hold at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from fastreid.retrieval.checked import real_rows
from fastreid.retrieval.histogram import PairCounter
from fastreid.retrieval.matching import Matches
from fastreid.retrieval.ranking import check_all_finite, count_matrix, ranking_of
from fastreid.structures.ranking import Ranking
from fastreid.utils.progress import progress

MEMORY_BUDGET = 64  # MiB beyond the features
MANY_PAIRS = 10**8  # from here on progress is told


class Distances(ABC):
    """Distances [Q, G], made a few rows at a time; whatever is computed of them uses the same bits.

    Attributes:
        shape: (Q, G).
        bounds: two numbers between which most distances lie.
        rows_at_once: queries whose rows fit into the memory budget.
    """

    shape: tuple[int, int]
    bounds: tuple[float, float]
    rows_at_once: int

    @abstractmethod
    def block(self, first: int, stop: int, out: Any = None) -> Any:
        """Distances [stop - first, G] of queries first … stop - 1: an array, or a tensor on any device.

        Args:
            out: a block of at least as many rows that may be written over, or None.
        """

    def rows(self, first: int, stop: int, out: Any = None) -> np.ndarray:
        """The same as an array."""
        block = self.block(first, stop, out)
        return block.cpu().numpy() if isinstance(block, torch.Tensor) else np.asarray(block)

    def row(self, query: int) -> np.ndarray:
        """Distances [G] of one query."""
        first = query // self.rows_at_once * self.rows_at_once  # a library's product may differ in another block
        return self.rows(first, min(first + self.rows_at_once, self.shape[0]))[query - first]

    def blocks(self, told_as: str = "", wanted: np.ndarray | None = None) -> Iterator[tuple[int, Any]]:
        """(first query, its and the next ones' distances), through all queries; each is written over by the next.

        Args:
            told_as: what progress is told of, if there is much.
            wanted: bool [Q]; blocks without a wanted query are left out.

        Raises:
            ValueError: naming a distance that is not finite.
        """
        starts: Sequence[int] = range(0, self.shape[0], self.rows_at_once)
        if wanted is not None:
            starts = [start for start in starts if wanted[start : start + self.rows_at_once].any()]
        many = told_as and self.shape[0] * self.shape[1] > MANY_PAIRS
        whole = None
        for first in progress(starts, len(starts), told_as) if many else starts:
            block = self.block(first, min(first + self.rows_at_once, self.shape[0]), whole)
            whole = block if whole is None else whole
            check_all_finite(block, first)
            yield first, block

    def rank(self, matches: Matches) -> Ranking:
        """Where each query's right images come out.

        Raises:
            ValueError: a distance is not finite, or the ids are of other numbers of images.
        """
        return self.rank_each([matches])[0]

    def rank_each(self, several: Sequence[Matches]) -> list[Ranking]:
        """As `rank`, for several sets of matches: other queries are scored, or other gallery images take part."""
        for matches in several:
            matches.check_sizes(*self.shape)
        parts: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in several]
        is_scored = np.any([matches.num_positives > 0 for matches in several], axis=0)
        for first, block in self.blocks("ranking", is_scored):
            for part, matches in zip(parts, several, strict=True):
                mine = matches.of_queries(first, first + len(block))
                part.append(count_matrix(block, mine, checked=True))
        return [ranking_from(part, matches) for part, matches in zip(parts, several, strict=True)]

    def same_person(self, matches: Matches) -> tuple[np.ndarray, np.ndarray]:
        """Distances to the right images and to the removed ones, in the order of `matches`."""
        matches.check_sizes(*self.shape)
        right, removed = [], []
        for first, block in self.blocks("measuring right images"):
            mine = matches.of_queries(first, first + len(block))
            for found, images, starts in (
                (right, mine.positives, mine.positive_starts),
                (removed, mine.removed, mine.removed_starts),
            ):
                row = np.repeat(np.arange(len(block)), np.diff(starts))
                found.append(np.asarray(_at(block, row, images)))
        return np.concatenate(right), np.concatenate(removed)

    def count_pairs(self, counter: PairCounter, matches: Matches) -> None:
        """Count all distances but those to junk."""
        kept = matches.kept
        for _, block in self.blocks("counting pairs"):
            counter.add(block if len(kept) == matches.num_gallery else block[:, kept])


def _at(block: Any, row: np.ndarray, image: np.ndarray) -> Any:
    if isinstance(block, torch.Tensor):
        return block[torch.from_numpy(row).to(block.device), torch.from_numpy(image).to(block.device)].cpu()
    return block[row, image]


def ranking_from(parts: Sequence[tuple[np.ndarray, np.ndarray]], matches: Matches) -> Ranking:
    """The ranking of counts that came block by block (`count_matrix`)."""
    if not parts:
        parts = [(np.zeros(0, np.float32), np.zeros((3, 0), np.int64))]
    thresholds, counts = zip(*parts, strict=True)
    return ranking_of(np.concatenate(thresholds), np.concatenate(counts, axis=1), matches)


def rows_within(memory_budget: float, bytes_of_row: int, limit: int) -> int:
    """How many rows fit into MiB; at least one, at most `limit`."""
    return max(1, int(min(limit, memory_budget * 2**20 / max(1, bytes_of_row))))


class MatrixDistances(Distances):
    """Distances that somebody else computed, as a matrix [Q, G]; a file that is mapped into memory stays one."""

    def __init__(self, matrix: ArrayLike, *, memory_budget: float = MEMORY_BUDGET) -> None:
        self._matrix = real_rows(matrix, "distances")
        if self._matrix.ndim != 2:
            raise ValueError(f"distances must be a matrix [Q, G], got shape {list(self._matrix.shape)}")
        self.shape = self._matrix.shape
        self.rows_at_once = rows_within(memory_budget, 2 * 8 * self.shape[1], max(1, self.shape[0]))

    @cached_property
    def bounds(self) -> tuple[float, float]:
        ends = [(float(block.min()), float(block.max())) for _, block in self.blocks() if block.size]
        low, high = np.float32(min((end[0] for end in ends), default=0)), max((end[1] for end in ends), default=1)
        # Of equal distances, bins that float32 can tell apart.
        return float(low), float(max(np.float32(high), low + max(np.float32(1e-6), np.float32(1e-6) * abs(low))))

    def block(self, first: int, stop: int, out: Any = None) -> np.ndarray:
        rows = self._matrix[first:stop].view()
        rows.flags.writeable = False  # they are somebody's
        return rows
