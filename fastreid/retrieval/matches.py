"""Matches: which gallery images are positives, removed or junk for each query, by their labels alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fastreid.structures import JUNK_PERSON, PersonImage
from fastreid.utils.errors import ArgumentError, UserError


class NoValidQueryError(UserError, ValueError):
    """No query of a protocol has its person in the gallery under another camera."""


@dataclass(frozen=True, slots=True)
class Matches:
    """Gallery indices of Q queries by role; all arrays are int64.

    The positives of query q are `positives[positive_starts[q]:positive_starts[q + 1]]`; removed images likewise.

    Attributes:
        positives: same person, another camera; ascending within a query.
        positive_starts: [Q + 1].
        removed: same person, same camera (too easy to count); ascending within a query.
        removed_starts: [Q + 1].
        junk: images of person -1, removed for every query; ascending.
        num_gallery: number of gallery images.
    """

    positives: np.ndarray
    positive_starts: np.ndarray
    removed: np.ndarray
    removed_starts: np.ndarray
    junk: np.ndarray
    num_gallery: int

    @property
    def num_positives(self) -> np.ndarray:
        """Positives of each query, int64 [Q]."""
        return np.diff(self.positive_starts)

    @property
    def num_valid_gallery(self) -> np.ndarray:
        """Gallery images that stay in each query's ranking, int64 [Q]."""
        return self.num_gallery - len(self.junk) - np.diff(self.removed_starts)

    @property
    def kept(self) -> np.ndarray:
        """Gallery images that are not junk, int64, ascending."""
        return np.delete(np.arange(self.num_gallery), self.junk)

    def removed_mask(self, query: int) -> np.ndarray:
        """Return bool [G]: gallery images that do not take part in the ranking of a query."""
        mask = np.zeros(self.num_gallery, dtype=bool)
        mask[self.junk] = True
        mask[self.removed[self.removed_starts[query] : self.removed_starts[query + 1]]] = True
        return mask

    def of_queries(self, first: int, stop: int) -> Matches:
        """Return the matches of queries `first` to `stop` - 1."""
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
        """Return the matches of the given queries (ascending rows)."""
        positives, positive_starts = _select_rows(self.positives, self.positive_starts, queries)
        removed, removed_starts = _select_rows(self.removed, self.removed_starts, queries)
        return Matches(positives, positive_starts, removed, removed_starts, self.junk, self.num_gallery)

    def among(self, queries: np.ndarray, gallery: np.ndarray) -> Matches:
        """Return the matches if only some queries are scored against only some gallery images.

        Args:
            queries: bool [Q]; other queries have no positives.
            gallery: bool [G]; other images are treated as junk.
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
        """Check that there are as many descriptors as labels.

        Raises:
            ArgumentError: the numbers differ.
        """
        ids = len(self.num_positives), self.num_gallery
        if ids != (num_query, num_gallery):
            raise ArgumentError(
                f"{num_query} query and {num_gallery} gallery descriptors, but ids of {ids[0]} and {ids[1]}"
            )

    def require_valid_query(self, protocol: str = "") -> None:
        """Check that at least one query has a positive.

        Args:
            protocol: name for the error message.

        Raises:
            NoValidQueryError: no query can be scored; the message explains the camera rule.
        """
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
    """Find the positives, removed and junk images of every query.

    Args:
        q_pids: person ids of the queries, integers [Q].
        g_pids: person ids of the gallery, integers [G].
        q_camids: camera ids of the queries, integers [Q].
        g_camids: camera ids of the gallery, integers [G].

    Raises:
        ArgumentError: ids are not whole numbers, or lengths differ.
    """
    q_people, q_cameras = _paired_ids("query", q_pids, q_camids)
    g_people, g_cameras = _paired_ids("gallery", g_pids, g_camids)

    by_person = np.argsort(g_people, kind="stable")  # stable: indices ascend within a person
    sorted_people = g_people[by_person]
    first = np.searchsorted(sorted_people, q_people, side="left")
    count = np.searchsorted(sorted_people, q_people, side="right") - first
    count[q_people < 0] = 0  # images without a person match nothing

    query = np.repeat(np.arange(len(q_people)), count)
    within = np.arange(len(query)) - np.repeat(np.cumsum(count) - count, count)
    same_person = by_person[first[query] + within]
    same_camera = g_cameras[same_person] == q_cameras[query]
    return Matches(
        positives=same_person[~same_camera],
        positive_starts=_starts(query[~same_camera], len(q_people)),
        removed=same_person[same_camera],
        removed_starts=_starts(query[same_camera], len(q_people)),
        junk=np.flatnonzero(g_people == JUNK_PERSON),
        num_gallery=len(g_people),
    )


def match_images(query: Sequence[PersonImage], gallery: Sequence[PersonImage]) -> Matches:
    """Match the labels of images; see `match_labels`."""
    return match_labels(
        [image.person for image in query],
        [image.person for image in gallery],
        [image.camera for image in query],
        [image.camera for image in gallery],
    )


def _select_rows(entries: np.ndarray, starts: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the entries of some rows of a ragged list, and where each row starts."""
    counts = np.diff(starts)[rows]
    ends = counts.cumsum()
    within = np.arange(counts.sum()) - np.repeat(ends - counts, counts)
    return entries[np.repeat(starts[rows], counts) + within], np.concatenate([[0], ends])


def _starts(query_of_entry: np.ndarray, num_queries: int) -> np.ndarray:
    """Return row starts [Q + 1] of a list sorted by query."""
    return np.concatenate([[0], np.bincount(query_of_entry, minlength=num_queries).cumsum()])


def _paired_ids(side: str, pids: ArrayLike, camids: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    for what, given in (("person", pids), ("camera", camids)):
        if isinstance(given, np.ma.MaskedArray) and (masked := np.ma.getmaskarray(given)).any():
            raise ArgumentError(
                f"{side} {what} ids are masked ({masked.sum()} of {masked.size}): leave these images out, or give junk "
                f"the person {JUNK_PERSON}"
            )
    people, cameras = np.asarray(pids), np.asarray(camids)
    for what, ids in (("person", people), ("camera", cameras)):
        if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
            raise ArgumentError(
                f"{side} {what} ids must be a flat array of integers, got {ids.dtype} of shape {list(ids.shape)}"
            )
        if ids.dtype.kind == "u" and ids.size and ids.max() > np.iinfo(np.int64).max:
            raise ArgumentError(f"{side} {what} id {ids.max()} is too large: ids are 64-bit integers with a sign")
    if len(people) != len(cameras):
        raise ArgumentError(f"{len(people)} {side} person ids but {len(cameras)} {side} camera ids")
    return people.astype(np.int64), cameras.astype(np.int64)
