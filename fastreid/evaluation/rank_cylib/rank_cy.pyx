# Counting without a sort, compiled: how many gallery images come before each right match.
# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""A query's rank figures need only the ranks of its few positives, so the row is never sorted.

Same integers as fastreid/evaluation/rank_numpy.py, whose docstring states the contract; all
floating-point arithmetic is done by the caller, which is why both give the same bits.
"""
from libc.stdint cimport int64_t

import numpy as np

ctypedef fused real:
    float
    double

cdef enum:
    BLOCK = 256  # distances per pass: stays in L1 while every positive is counted against it
    MANY = 128  # from this many positives on, a binary search per image beats counting per positive


def count_before(
    const real[:, ::1] distances,
    const int64_t[::1] positives,
    const int64_t[::1] positive_starts,
    const int64_t[::1] removed,
    const int64_t[::1] removed_starts,
    const int64_t[::1] junk,
):
    """See fastreid.evaluation.rank_numpy.count_before."""
    cdef Py_ssize_t num_gallery = distances.shape[1], query, start, num, i
    counts_array = np.zeros(positives.shape[0], dtype=np.int64)
    cdef int64_t[::1] counts = counts_array
    most = int(np.diff(positive_starts).max(initial=0))
    cdef real[::1] thresholds = np.empty(most, dtype=np.float32 if real is float else np.float64)
    cdef int64_t[::1] passed = np.empty(most + 1, dtype=np.int64)

    with nogil:
        for query in range(distances.shape[0]):
            start = positive_starts[query]
            num = positive_starts[query + 1] - start
            if num == 0:
                continue
            for i in range(num):
                thresholds[i] = distances[query, positives[start + i]]
                passed[i] = 0
            if num < MANY:
                count_blocks(&distances[query, 0], num_gallery, &thresholds[0],
                             &positives[start], num, &counts[start])
            else:
                for i in range(num_gallery):
                    place(distances[query, i], i, &thresholds[0], &positives[start], num,
                          &passed[0], 1)
            for i in range(removed_starts[query], removed_starts[query + 1]):
                place(distances[query, removed[i]], removed[i], &thresholds[0],
                      &positives[start], num, &passed[0], -1)
            for i in range(junk.shape[0]):
                place(distances[query, junk[i]], junk[i], &thresholds[0],
                      &positives[start], num, &passed[0], -1)
            accumulate(&passed[0], num, &counts[start])
    return counts_array


cdef void count_blocks(const real* row, Py_ssize_t num_gallery, const real* thresholds,
                       const int64_t* positives, Py_ssize_t num, int64_t* counts) noexcept nogil:
    """Add to `counts` the images before each positive, removed ones included."""
    cdef Py_ssize_t begin = 0, end, split, j
    cdef int64_t before
    while begin < num_gallery:
        end = min(begin + BLOCK, num_gallery)
        for j in range(num - 1, -1, -1):  # farthest first: once none is before, none is for nearer
            split = min(max(positives[j], begin), end)
            before = (num_at_most(row, begin, split, thresholds[j])
                      + num_below(row, split, end, thresholds[j]))
            if before == 0:
                break
            counts[j] += before
        begin = end


cdef inline int num_below(const real* row, Py_ssize_t begin, Py_ssize_t end,
                          real threshold) noexcept nogil:
    cdef int total = 0
    cdef Py_ssize_t i
    for i in range(begin, end):
        total += row[i] < threshold
    return total


cdef inline int num_at_most(const real* row, Py_ssize_t begin, Py_ssize_t end,
                            real threshold) noexcept nogil:
    cdef int total = 0
    cdef Py_ssize_t i
    for i in range(begin, end):
        total += row[i] <= threshold
    return total


cdef inline void place(real distance, int64_t image, const real* thresholds,
                       const int64_t* positives, Py_ssize_t num, int64_t* passed,
                       int64_t weight) noexcept nogil:
    """Add `weight` at the first positive that `image` comes before (binary search)."""
    cdef Py_ssize_t low = 0, high = num, middle
    if distance > thresholds[num - 1]:
        return
    while low < high:
        middle = (low + high) >> 1
        if distance < thresholds[middle] or (
            distance == thresholds[middle] and image < positives[middle]
        ):
            high = middle
        else:
            low = middle + 1
    passed[low] += weight  # `passed` has one slot more than positives, for images before none


cdef inline void accumulate(const int64_t* passed, Py_ssize_t num, int64_t* counts) noexcept nogil:
    cdef int64_t total = 0
    cdef Py_ssize_t j
    for j in range(num):
        total += passed[j]
        counts[j] += total
