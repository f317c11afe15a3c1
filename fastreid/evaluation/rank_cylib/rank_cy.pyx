# Ranks without a sort, compiled: from a ready matrix, or from features without ever holding one.
# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""kernels.h on NumPy arrays. The contract of the counts is in fastreid/evaluation/rank_numpy.py."""
from libc.stdint cimport int64_t

import numpy as np

ctypedef fused real:
    float
    double

cdef extern from "kernels.h" nogil:
    enum:
        QUERY_PANEL
    ctypedef struct tally_kernel:
        pass
    ctypedef struct kernels:
        const char* name
    kernels kernels_named(const char* name)
    void pack_panel(const float* features, const int64_t* rows, int64_t count, int64_t dim, const float* factors,
                    int width, float* panel)
    ctypedef struct counts:
        int64_t* before
        int64_t* below
        int64_t* at_most
    ctypedef struct work:
        kernels with_ "with"
        int64_t dim
        float slope
        float lowest
        const float* queries
        const float* query_offsets
        int64_t num_queries
        const float* gallery
        const float* gallery_factors
        const float* gallery_offsets
    ctypedef struct counting:
        const float* thresholds
        const int64_t* positions
        const int64_t* starts
        int64_t base
        counts to
    int compare_rows(const work* job, const int64_t* rows, int64_t num_rows, const counting* what, float* out,
                     int64_t stride, int num_threads)
    void pair_distances(const work* job, const float* query_features, const float* query_factors,
                        const int64_t* query_of, const int64_t* image_of, int64_t num_pairs, float* out,
                        int num_threads)
    int count_a_matrix(const char* name, const void* matrix, int is_double, int64_t num_queries, int64_t num_gallery,
                       const void* thresholds, const int64_t* positions, const int64_t* starts,
                       const int64_t* removed, const int64_t* removed_starts, const int64_t* junk, int64_t num_junk,
                       const int64_t* junk_places, counts to, int num_threads)
    void take_off_all(const float* removed, const int64_t* places, const int64_t* removed_starts,
                      const float* thresholds, const int64_t* positions, const int64_t* starts, int64_t num_queries,
                      counts source)


def instruction_set(str name=None):
    """The widest instruction set of this CPU, or `name` if the CPU has it, else None."""
    cdef bytes wanted = b"" if name is None else name.encode()
    cdef kernels found = kernels_named(NULL if name is None else <const char*>wanted)
    return None if found.name == NULL else (<bytes>found.name).decode()


def count_before(const real[:, ::1] distances, const int64_t[::1] positives, const int64_t[::1] positive_starts,
                 const int64_t[::1] removed, const int64_t[::1] removed_starts, const int64_t[::1] junk,
                 int num_threads=1):
    """See fastreid.evaluation.rank_numpy.count_before."""
    cdef int failed = 0
    rows = np.repeat(np.arange(distances.shape[0]), np.diff(positive_starts))
    cdef const real[::1] thresholds = np.ascontiguousarray(np.asarray(distances)[rows, positives])
    cdef int64_t[::1] junk_places = np.searchsorted(junk, positives)
    tallies = np.zeros((3, positives.shape[0]), dtype=np.int64)
    cdef int64_t[:, ::1] to = tallies
    cdef counts all_counts
    if positives.shape[0]:
        all_counts.before, all_counts.below, all_counts.at_most = &to[0, 0], &to[1, 0], &to[2, 0]
        with nogil:
            failed = count_a_matrix(NULL, &distances[0, 0], real is double, distances.shape[0], distances.shape[1],
                                    &thresholds[0], &positives[0], &positive_starts[0],
                                    &removed[0] if removed.shape[0] else NULL, &removed_starts[0],
                                    &junk[0] if junk.shape[0] else NULL, junk.shape[0], &junk_places[0], all_counts,
                                    num_threads)
    if failed:
        raise MemoryError("not enough memory for a row of distances")
    return tallies


def squared_lengths(const float[:, ::1] features):
    """float64 [N]: |x|^2, summed in one order everywhere (eight partial sums, then those)."""
    lengths_array = np.empty(features.shape[0])
    cdef double[::1] lengths = lengths_array
    cdef double sums[8]
    cdef double value
    cdef Py_ssize_t row, k, lane
    with nogil:
        for row in range(features.shape[0]):
            for lane in range(8):
                sums[lane] = 0
            for k in range(0, features.shape[1] - 7, 8):
                for lane in range(8):
                    value = features[row, k + lane]
                    sums[lane] += value * value
            for k in range(features.shape[1] // 8 * 8, features.shape[1]):
                value = features[row, k]
                sums[k % 8] += value * value
            lengths[row] = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]))
    return lengths_array


cdef class Queries:
    """Queries, packed, that are compared with one gallery segment after the other.

    features [Q, D] are multiplied by their `factors`; a distance is the greater of `lowest` and
    offset of the query + offset of the image + slope * product.
    """

    cdef work job
    cdef const float[:, ::1] features
    cdef const float[::1] factors
    cdef const float[::1] offsets
    cdef float[::1] packed

    def __init__(self, const float[:, ::1] features, const float[::1] factors, const float[::1] offsets, *,
                 float slope, float lowest, str instructions=None):
        cdef bytes wanted = b"" if instructions is None else instructions.encode()
        cdef Py_ssize_t num = features.shape[0], dim = features.shape[1], panels = -(-num // QUERY_PANEL), p
        cdef int64_t[::1] rows = np.arange(num)
        self.features, self.factors, self.offsets = features, factors, offsets
        self.packed = np.empty(max(1, panels * QUERY_PANEL * dim), dtype=np.float32)
        with nogil:
            for p in range(panels):
                pack_panel(&features[0, 0], &rows[p * QUERY_PANEL], min(num - p * QUERY_PANEL, QUERY_PANEL), dim,
                           &factors[0], QUERY_PANEL, &self.packed[p * QUERY_PANEL * dim])
        self.job.with_ = kernels_named(NULL if instructions is None else <const char*>wanted)
        if self.job.with_.name == NULL:
            raise ValueError(f"this CPU has no instruction set {instructions!r}")
        self.job.dim, self.job.slope, self.job.lowest = dim, slope, lowest
        self.job.queries, self.job.query_offsets, self.job.num_queries = &self.packed[0], &offsets[0], num

    def pairs(self, const float[:, ::1] gallery, const float[::1] factors, const float[::1] offsets,
              const int64_t[::1] query_of, const int64_t[::1] image_of, int num_threads):
        """float32: distances of pairs (query row, gallery row)."""
        cdef work job = self.job
        out_array = np.empty(query_of.shape[0], dtype=np.float32)
        cdef float[::1] out = out_array
        if query_of.shape[0]:
            job.gallery, job.gallery_factors, job.gallery_offsets = &gallery[0, 0], &factors[0], &offsets[0]
            with nogil:
                pair_distances(&job, &self.features[0, 0], &self.factors[0], &query_of[0], &image_of[0],
                               query_of.shape[0], &out[0], num_threads)
        return out_array

    def count(self, const float[:, ::1] gallery, const float[::1] factors, const float[::1] offsets,
              const int64_t[::1] rows, int64_t base, const float[::1] thresholds, const int64_t[::1] positions,
              const int64_t[::1] starts, int64_t[:, ::1] to, int num_threads):
        """Add the counts of gallery `rows`, at positions base, base + 1, …, to before, below, at_most [3, P]."""
        cdef work job = self.job
        cdef counting what
        cdef int failed
        if rows.shape[0] == 0 or positions.shape[0] == 0:
            return
        job.gallery, job.gallery_factors, job.gallery_offsets = &gallery[0, 0], &factors[0], &offsets[0]
        what.thresholds, what.positions, what.starts, what.base = &thresholds[0], &positions[0], &starts[0], base
        what.to.before, what.to.below, what.to.at_most = &to[0, 0], &to[1, 0], &to[2, 0]
        with nogil:
            failed = compare_rows(&job, &rows[0], rows.shape[0], &what, NULL, 0, num_threads)
        if failed:
            raise MemoryError("not enough memory for a block of distances")

    def take_off(self, const float[::1] removed, const int64_t[::1] places, const int64_t[::1] removed_starts,
                 const float[::1] thresholds, const int64_t[::1] positions, const int64_t[::1] starts,
                 int64_t[:, ::1] source):
        """Take removed images, at `places`, off the counts."""
        cdef counts all_counts
        if removed.shape[0] == 0 or positions.shape[0] == 0:
            return
        all_counts.before, all_counts.below, all_counts.at_most = &source[0, 0], &source[1, 0], &source[2, 0]
        with nogil:
            take_off_all(&removed[0], &places[0], &removed_starts[0], &thresholds[0], &positions[0], &starts[0],
                         starts.shape[0] - 1, all_counts)

    def distances(self, const float[:, ::1] gallery, const float[::1] factors, const float[::1] offsets,
                  const int64_t[::1] rows, float[:, ::1] out, Py_ssize_t column, int num_threads):
        """Write the distances to gallery `rows` into `out` from `column` on."""
        cdef work job = self.job
        cdef int failed
        if rows.shape[0] == 0 or out.shape[0] == 0:
            return
        job.gallery, job.gallery_factors, job.gallery_offsets = &gallery[0, 0], &factors[0], &offsets[0]
        with nogil:
            failed = compare_rows(&job, &rows[0], rows.shape[0], NULL, &out[0, column], out.shape[1], num_threads)
        if failed:
            raise MemoryError("not enough memory for a block of distances")
