"""Who may match whom: the label half of a ranking, known before any distance is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fastreid.structures import JUNK_PERSON
from fastreid.utils.errors import ArgumentError, UserError


class NoValidQueryError(UserError, ValueError):
    """No query of a protocol has its person in the gallery under another camera."""


@dataclass(frozen=True, slots=True)
class Matches:
    """Gallery indices by role. Query q owns `positives[positive_starts[q]:positive_starts[q + 1]]`.

    positives: same person, another camera; ascending within a query.
    removed: same person, same camera (too easy to count); ascending within a query.
    junk: person -1, removed for every query.
    """

    positives: np.ndarray  # int64 [sum of positives]
    positive_starts: np.ndarray  # int64 [Q + 1]
    removed: np.ndarray  # int64
    removed_starts: np.ndarray  # int64 [Q + 1]
    junk: np.ndarray  # int64
    num_gallery: int

    @property
    def num_positives(self) -> np.ndarray:
        """int64 [Q]."""
        return np.diff(self.positive_starts)

    @property
    def num_valid_gallery(self) -> np.ndarray:
        """int64 [Q]: gallery images that stay in a query's ranking."""
        return self.num_gallery - len(self.junk) - np.diff(self.removed_starts)

    @property
    def kept(self) -> np.ndarray:
        """int64: gallery images that are no junk, ascending."""
        return np.delete(np.arange(self.num_gallery), self.junk)

    def of_queries(self, first: int, stop: int) -> Matches:
        """The matches of queries `first` … `stop` - 1."""
        starts, removed = (s[first : stop + 1] for s in (self.positive_starts, self.removed_starts))
        return Matches(
            positives=self.positives[starts[0] : starts[-1]],
            positive_starts=starts - starts[0],
            removed=self.removed[removed[0] : removed[-1]],
            removed_starts=removed - removed[0],
            junk=self.junk,
            num_gallery=self.num_gallery,
        )

    def select(self, queries: np.ndarray) -> Matches:
        """The matches of some queries, by ascending row."""
        positives, positive_starts = _of_rows(self.positives, self.positive_starts, queries)
        removed, removed_starts = _of_rows(self.removed, self.removed_starts, queries)
        return Matches(positives, positive_starts, removed, removed_starts, self.junk, self.num_gallery)

    def among(self, queries: np.ndarray, gallery: np.ndarray) -> Matches:
        """The matches if only some queries are scored, and only some gallery images take part.

        Args:
            queries, gallery: bool [Q] and [G]. Other queries have no positives; other images are as good as junk.
        """
        query = np.arange(len(queries))
        kept = [
            np.repeat(queries, np.diff(starts)) & gallery[entries]
            for entries, starts in ((self.positives, self.positive_starts), (self.removed, self.removed_starts))
        ]
        absent = ~gallery
        absent[self.junk] = True
        return Matches(
            positives=self.positives[kept[0]],
            positive_starts=_starts(np.repeat(query, self.num_positives)[kept[0]], len(query)),
            removed=self.removed[kept[1]],
            removed_starts=_starts(np.repeat(query, np.diff(self.removed_starts))[kept[1]], len(query)),
            junk=np.flatnonzero(absent),
            num_gallery=self.num_gallery,
        )

    def check_sizes(self, num_query: int, num_gallery: int) -> None:
        """Raises: ValueError if these are other numbers of images than the ids'."""
        ids = len(self.num_positives), self.num_gallery
        if ids != (num_query, num_gallery):
            raise ArgumentError(
                f"{num_query} query and {num_gallery} gallery descriptors, but ids of {ids[0]} and {ids[1]}"
            )

    def require_valid_query(self, protocol: str = "") -> None:
        """Raise `NoValidQueryError` explaining the camera rule if no query can be scored."""
        num_queries = len(self.num_positives)
        if self.num_positives.any():
            return
        same_camera = int(np.count_nonzero(np.diff(self.removed_starts)))
        raise NoValidQueryError(
            f"{protocol + ': ' if protocol else ''}none of the {num_queries} queries has a valid "
            f"match among the {self.num_gallery} gallery images: the persons of "
            f"{num_queries - same_camera} queries are absent from the gallery, and those of "
            f"{same_camera} are there only under the query's own camera. Gallery images with the "
            "query's person id and camera id are removed before ranking, so every person needs a "
            "gallery image under another camera id; check that the ids of query and gallery agree "
            "and that each camera has its own id."
        )


def match_labels(q_pids: ArrayLike, g_pids: ArrayLike, q_camids: ArrayLike, g_camids: ArrayLike) -> Matches:
    """Sort the gallery into positives, removed and junk for every query.

    Args: integer person and camera ids, [Q] for the queries and [G] for the gallery.
    Raises: ValueError if ids are not whole numbers or lengths differ.
    """
    q_pids, q_camids = _paired_ids("query", q_pids, q_camids)
    g_pids, g_camids = _paired_ids("gallery", g_pids, g_camids)

    by_person = np.argsort(g_pids, kind="stable")  # stable: indices ascend within a person
    sorted_pids = g_pids[by_person]
    first = np.searchsorted(sorted_pids, q_pids, side="left")
    count = np.searchsorted(sorted_pids, q_pids, side="right") - first
    count[q_pids < 0] = 0  # nobody in particular matches nobody

    query = np.repeat(np.arange(len(q_pids)), count)
    within = np.arange(len(query)) - np.repeat(np.cumsum(count) - count, count)
    same_person = by_person[first[query] + within]
    same_camera = g_camids[same_person] == q_camids[query]
    return Matches(
        positives=same_person[~same_camera],
        positive_starts=_starts(query[~same_camera], len(q_pids)),
        removed=same_person[same_camera],
        removed_starts=_starts(query[same_camera], len(q_pids)),
        junk=np.flatnonzero(g_pids == JUNK_PERSON),
        num_gallery=len(g_pids),
    )


def _of_rows(entries: np.ndarray, starts: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Entries of some rows of a ragged list, and where each row starts."""
    counts = np.diff(starts)[rows]
    ends = counts.cumsum()
    within = np.arange(counts.sum()) - np.repeat(ends - counts, counts)
    return entries[np.repeat(starts[rows], counts) + within], np.concatenate([[0], ends])


def _starts(query_of_entry: np.ndarray, num_queries: int) -> np.ndarray:
    """Row starts [Q + 1] of a list sorted by query."""
    return np.concatenate([[0], np.bincount(query_of_entry, minlength=num_queries).cumsum()])


def _paired_ids(side: str, pids: ArrayLike, camids: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    pids, camids = np.asarray(pids), np.asarray(camids)
    for what, ids in (("person", pids), ("camera", camids)):
        if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
            raise ArgumentError(
                f"{side} {what} ids must be a flat array of integers, got {ids.dtype} of shape {list(ids.shape)}"
            )
        if ids.dtype.kind == "u" and ids.size and ids.max() > np.iinfo(np.int64).max:
            raise ArgumentError(f"{side} {what} id {ids.max()} is too large: ids are 64-bit integers with a sign")
    if len(pids) != len(camids):
        raise ArgumentError(f"{len(pids)} {side} person ids but {len(camids)} {side} camera ids")
    return pids.astype(np.int64), camids.astype(np.int64)
