"""Counts of nearer images in NumPy; the fallback where rank_cylib is not compiled, with the same integers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np


def count_before(
    distances: np.ndarray,
    positives: np.ndarray,
    positive_starts: np.ndarray,
    removed: np.ndarray,
    removed_starts: np.ndarray,
    junk: np.ndarray,
    num_threads: int = 1,
) -> np.ndarray:
    """Count the gallery images before, below and at most at each positive; int64 [3, positives].

    "Before" means a smaller distance, or an equal one and a lower gallery index; "below" means a smaller distance;
    "at most" a smaller or an equal one. Removed and junk images do not count.

    Args:
        distances: float [Q, G], finite.
        positives: gallery indices, each query's in ranked order (distance, then index).
        positive_starts: as in `Matches`.
        removed: as in `Matches`.
        removed_starts: as in `Matches`.
        junk: as in `Matches`.
        num_threads: queries that are counted in parallel; NumPy's sort releases the interpreter lock.
    """
    counts = np.zeros((3, len(positives)), dtype=np.int64)

    def count(query: int) -> None:
        start, stop = positive_starts[query : query + 2]
        row, ranked = distances[query], positives[start:stop]
        candidate = row <= row[ranked[-1]]  # images beyond the last match are before none
        candidate[junk] = False
        candidate[removed[removed_starts[query] : removed_starts[query + 1]]] = False
        images = np.flatnonzero(candidate)
        first_after = first_positive_after(row, images, ranked)
        counts[0, start:stop] = np.bincount(first_after, minlength=len(ranked) + 1)[:-1].cumsum()
        near = np.sort(row[images])
        counts[1, start:stop] = np.searchsorted(near, row[ranked], side="left")
        counts[2, start:stop] = np.searchsorted(near, row[ranked], side="right")

    with ThreadPoolExecutor(num_threads) as threads:
        for _ in threads.map(count, np.flatnonzero(np.diff(positive_starts)).tolist()):
            pass
    return counts


def first_positive_after(row: np.ndarray, images: np.ndarray, ranked: np.ndarray) -> np.ndarray:
    """Return, for each image, the position in `ranked` of the first positive that it is before."""
    thresholds = row[ranked]
    distance = row[images]
    position = np.searchsorted(thresholds, distance, side="left")
    tied = np.flatnonzero(position != np.searchsorted(thresholds, distance, side="right"))
    for entry in tied:  # among equal distances the gallery index decides
        while (
            position[entry] < len(ranked)
            and thresholds[position[entry]] == distance[entry]
            and ranked[position[entry]] <= images[entry]
        ):
            position[entry] += 1
    return position
