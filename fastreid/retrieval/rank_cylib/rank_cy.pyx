# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Compiled kernels of distances, counts, neighbours, histograms and Jaccard distances on NumPy arrays (see headers)."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memmove

import numpy as np

ctypedef fused real:
    float
    double


def has_coarse(str kind):
    """Return whether this CPU has the product of `rounded_rows`, "pairs" of bfloat16 or "bytes"."""
    cdef work job
    job.with_ = kernels_named(NULL)
    return bool(make_coarse(&job, kind == "bytes"))


def instruction_set(str name=None):
    """Return the widest instruction set of this CPU, or `name` if the CPU has it, else None."""
    cdef bytes wanted = b"" if name is None else name.encode()
    cdef kernels found = kernels_named(NULL if name is None else <const char*>wanted)
    return None if found.name == NULL else (<bytes>found.name).decode()


def count_before(const real[:, ::1] distances, const int64_t[::1] positives, const int64_t[::1] positive_starts,
                 const int64_t[::1] removed, const int64_t[::1] removed_starts, const int64_t[::1] junk,
                 int num_threads=1):
    """Count as `fastreid.retrieval.ranking_numpy.count_before`."""
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


def all_finite(const real[:, ::1] values, int num_threads):
    """Return whether all values of a matrix are finite."""
    cdef int fine = True
    if values.shape[0] and values.shape[1]:
        with nogil:
            if real is double:
                fine = doubles_are_finite(&values[0, 0], values.shape[0] * values.shape[1], num_threads)
            else:
                fine = floats_are_finite(&values[0, 0], values.shape[0] * values.shape[1], num_threads)
    return bool(fine)


def squared_lengths(const float[:, ::1] features, const float[::1] factors=None, const float[::1] centre=None,
                    int num_threads=1):
    """Return |x|^2 of rows, float64 [N]; the order of summation is the same everywhere.

    With both `factors` [N] and `centre` [D], rows are scaled and centred first.
    """
    cdef double[::1] squares = np.zeros(features.shape[0])
    if features.shape[0] and features.shape[1]:
        with nogil:
            squares_of_centred(&features[0, 0], NULL if factors is None else &factors[0],
                              NULL if centre is None else &centre[0], features.shape[0], features.shape[1],
                              &squares[0], num_threads)
    return np.asarray(squares)


def products_of_rows(const float[:, ::1] features, const float[::1] centre, const int32_t[::1] left,
                     const int32_t[::1] right, int num_threads):
    """Return the products of rows `left` and `right` of features [N, D] minus the centre [D], float32 [pairs]."""
    products = np.empty(left.shape[0], dtype=np.float32)
    cdef float[::1] out = products
    if left.shape[0]:
        with nogil:
            row_products(&features[0, 0], &centre[0], features.shape[1], &left[0], &right[0], left.shape[0],
                         &out[0], num_threads)
    return products


def products_in_lists(const float[:, ::1] features, const int32_t[:, ::1] lists, int num_threads):
    """Return the products of all pairs of rows in each list [M, k], float32 [M, k (k - 1) / 2]: the upper triangles."""
    cdef float[:, ::1] out = np.empty((lists.shape[0], lists.shape[1] * (lists.shape[1] - 1) // 2), dtype=np.float32)
    cdef int failed = 0
    if out.size:
        with nogil:
            failed = list_products(&features[0, 0], features.shape[1], &lists[0, 0], lists.shape[0], lists.shape[1],
                                   &out[0, 0], num_threads)
    if failed:
        raise MemoryError("not enough memory for the products of a list")
    return np.asarray(out)


def jaccard_rows(const int64_t[::1] starts, const int32_t[::1] columns, const float[::1] weights,
                 const int64_t[::1] column_starts, const int32_t[::1] column_rows, const float[::1] column_weights,
                 int64_t num_others, int64_t first, int64_t last, float max_distance, const int64_t[::1] bounds,
                 int num_threads):
    """Return Jaccard distances up to `max_distance` of sparse rows `first` … `last` - 1 to all others.

    The others are given by column; `bounds` [rows + 1] reserve space for each row. Returns (counts [rows], indices,
    distances).
    """
    cdef sparse rows, others
    cdef int failed
    indices_array = np.empty(bounds[last - first] + 1, dtype=np.int32)
    distances_array = np.empty(bounds[last - first] + 1, dtype=np.float32)
    cdef int64_t[::1] found = np.zeros(last - first, dtype=np.int64)
    cdef int32_t[::1] indices = indices_array
    cdef float[::1] distances = distances_array
    if last > first and columns.shape[0] and column_rows.shape[0]:
        rows.starts, rows.indices, rows.weights = &starts[0], &columns[0], &weights[0]
        others.starts, others.indices, others.weights = &column_starts[0], &column_rows[0], &column_weights[0]
        with nogil:
            failed = jaccard_rows_(rows, others, num_others, first, last, max_distance, &bounds[0], &indices[0],
                                   &distances[0], &found[0], num_threads)
        if failed:
            raise MemoryError("not enough memory for a row of Jaccard distances")
    # Each row is at the start of its reserved space: close the gaps.
    cdef int64_t row, count, to = 0
    with nogil:
        for row in range(last - first):
            count = found[row]
            memmove(&indices[to], &indices[bounds[row]], count * sizeof(int32_t))
            memmove(&distances[to], &distances[bounds[row]], count * sizeof(float))
            to += count
    return np.asarray(found), indices_array[:to].copy(), distances_array[:to].copy()


cdef class Histogram:
    """Counts of distances in equal bins from `low` to `high`, and at ascending thresholds; see histogram.h."""

    cdef histogram to
    cdef const float[::1] thresholds
    cdef int32_t[::1] cell_starts
    cdef int64_t[:, ::1] bins
    cdef int64_t[:, ::1] steps
    cdef int64_t[:, ::1] ties

    def __init__(self, const float[::1] thresholds, float low, float high, int64_t num_bins, int num_threads):
        cdef int64_t[::1] cells
        # Eight cells for each threshold where thresholds are; at most as many as fit a cache.
        spread = (thresholds[thresholds.shape[0] - 1] - thresholds[0]) / (high - low) if thresholds.shape[0] > 1 else 1.0
        wanted = min(8 * thresholds.shape[0] / max(spread, 1e-6), 1 << 20)
        self.thresholds = thresholds
        self.bins = np.zeros((num_threads, num_bins), dtype=np.int64)
        self.steps = np.zeros((num_threads, thresholds.shape[0] + 1), dtype=np.int64)
        self.ties = np.zeros((num_threads, thresholds.shape[0] + 1), dtype=np.int64)
        self.to.cells_per_bin = max(0, int(np.ceil(np.log2(max(1.0, wanted / num_bins)))))
        self.to.num_cells = num_bins << self.to.cells_per_bin
        self.to.low, self.to.scale = low, self.to.num_cells / (high - low)
        self.to.num_bins, self.to.num_steps = num_bins, self.steps.shape[1]
        self.to.bins, self.to.steps, self.to.ties = &self.bins[0, 0], &self.steps[0, 0], &self.ties[0, 0]
        cells_array = np.zeros(thresholds.shape[0], dtype=np.int64)
        if thresholds.shape[0]:
            self.to.thresholds = &thresholds[0]
            cells = cells_array
            cells_of(&self.to, &thresholds[0], thresholds.shape[0], &cells[0])
        in_cell = np.bincount(cells_array, minlength=self.to.num_cells)
        self.cell_starts = np.concatenate([[0], in_cell.cumsum()]).astype(np.int32)
        self.to.cell_starts = &self.cell_starts[0]

    def add(self, const float[::1] distances, int64_t sign=1):
        """Add distances; with sign -1 subtract them."""
        if distances.shape[0]:
            with nogil:
                add_all(&self.to, &distances[0], distances.shape[0], sign, self.bins.shape[0])

    def read(self):
        """Return counts in each bin, int64 [bins], then at most at and exactly at each threshold, int64 [T]."""
        steps = np.asarray(self.steps).sum(axis=0)[: self.thresholds.shape[0]]
        ties = np.asarray(self.ties).sum(axis=0)[: self.thresholds.shape[0]]
        return np.asarray(self.bins).sum(axis=0), steps.cumsum(), ties


def rounded_rows(const float[:, ::1] features, const float[::1] factors, const float[::1] centre, float unit,
                 float[:, ::1] rounded, int num_threads):
    """Write centred rows [N, D] as multiples of a unit in bytes [N, (D + 3) // 4]; return lengths of rows and residuals.

    With a unit of 0: as pairs of bfloat16 [N, (D + 1) // 2].
    """
    cdef double[::1] lengths = np.empty(features.shape[0]), residuals = np.empty(features.shape[0])
    if rounded.size:
        with nogil:
            round_rows(&features[0, 0], &factors[0], &centre[0], unit, features.shape[0], features.shape[1],
                       <uint8_t*>&rounded[0, 0], &lengths[0], &residuals[0], num_threads)
    return np.asarray(lengths), np.asarray(residuals)


cdef class KeyLists:
    """The k least distances of each of n images; see neighbors.h."""

    cdef key_lists lists
    cdef int64_t n
    cdef uint64_t[:, ::1] keys
    cdef int64_t[::1] counts
    cdef float[::1] reach
    cdef uint8_t[::1] locks

    def __init__(self, int64_t n, int64_t k, float reach=np.inf):
        self.n, self.lists.k, self.lists.room = n, k, k + min(k, 128)
        self.keys = np.empty((n, self.lists.room), dtype=np.uint64)
        self.counts = np.zeros(n, dtype=np.int64)
        self.reach = np.full(n, reach, dtype=np.float32)
        self.locks = np.zeros(n, dtype=np.uint8)
        if n and k:
            self.lists.keys, self.lists.counts = &self.keys[0, 0], &self.counts[0]
            self.lists.reach, self.lists.locks = &self.reach[0], &self.locks[0]

    def read(self, int num_threads):
        """Return images int32 [n, k] and distances float32 [n, k], least first."""
        cdef int32_t[:, ::1] indices = np.empty((self.n, self.lists.k), dtype=np.int32)
        cdef float[:, ::1] distances = np.empty((self.n, self.lists.k), dtype=np.float32)
        if self.n and self.lists.k:
            with nogil:
                read_lists(&self.lists, self.n, &indices[0, 0], &distances[0, 0], num_threads)
        return np.asarray(indices), np.asarray(distances)


cdef class NeighborLists:
    """The k nearest of each of n images and, if asked for, the greatest distance or the `num_far` farthest images."""

    cdef neighbor_lists lists
    cdef KeyLists near
    cdef KeyLists far
    cdef float[:, ::1] farthest
    cdef int num_threads

    def __init__(self, int64_t n, int64_t k, *, bint with_farthest, int num_threads, int64_t num_far=0,
                 float reach=np.inf):
        self.near, self.far, self.num_threads = KeyLists(n, k, reach), KeyLists(n, num_far), num_threads
        self.lists.near, self.lists.far = self.near.lists, self.far.lists
        self.lists.n, self.lists.farthest = n, NULL
        if with_farthest and n:
            self.farthest = np.full((num_threads, n), -np.inf, dtype=np.float32)
            self.lists.farthest = &self.farthest[0, 0]

    def offer_products(self, const uint16_t[:, ::1] products, const float[::1] query_offsets, const float[::1] offsets,
                       int64_t first_query, int64_t first, *, float slope, float lowest, bint each_pair_once):
        """Offer images first, …, given their products in bfloat16; offsets are those of all lists and of all images."""
        cdef work job
        job.with_, job.slope, job.lowest = kernels_named(NULL), slope, lowest
        job.query_offsets, job.gallery_offsets = &query_offsets[0], &offsets[0]
        self.lists.each_pair_once = each_pair_once
        with nogil:
            take_products(&job, &products[0, 0], first_query, products.shape[0], first, products.shape[1],
                          near_row_for(job.with_.name), &self.lists, self.num_threads)

    def read(self):
        """Return images int32 [n, k] and distances float32 [n, k], nearest first, and greatest distances [n] or None."""
        farthest = None if self.lists.farthest == NULL else np.asarray(self.farthest).max(axis=0)
        return *self.near.read(self.num_threads), farthest

    def read_far(self):
        """Return images int32 [n, num_far] and distances float32 [n, num_far], farthest first."""
        images, distances = self.far.read(self.num_threads)
        return images, -distances


cdef class Queries:
    """Packed queries that are compared with the gallery, segment by segment.

    Features [Q, D], and those of the gallery, are multiplied by their `factors`, and the `centre` [D] is subtracted. A
    distance is max(lowest, offset of the query + offset of the image + slope * product).
    """

    cdef work job
    cdef const float[:, ::1] features
    cdef const float[::1] factors, offsets, centre
    cdef float[::1] packed
    cdef bint is_coarse

    def __init__(self, const float[:, ::1] features, const float[::1] factors, const float[::1] offsets, *,
                 const float[::1] centre=None, float slope, float lowest, str instructions=None, str coarse="",
                 bint only_pairs=False):
        """Pack the queries; with `only_pairs` nothing is packed and only `pairs` may be called.

        `coarse` is "pairs" or "bytes" for `rounded_rows`; a ValueError is raised if the CPU has no product of them.
        """
        cdef bytes wanted = b"" if instructions is None else instructions.encode()
        cdef Py_ssize_t num = features.shape[0], dim = features.shape[1], panels = -(-num // QUERY_PANEL), p
        cdef int64_t[::1] rows = np.arange(num)
        self.features, self.factors, self.offsets = features, factors, offsets
        self.centre = np.zeros(dim, dtype=np.float32) if centre is None else centre
        self.job.centre = NULL if centre is None else &self.centre[0]
        self.packed = np.empty(1 if only_pairs else max(1, panels * QUERY_PANEL * dim), dtype=np.float32)
        with nogil:
            for p in range(0 if only_pairs else panels):
                pack_panel(&features[0, 0], &rows[p * QUERY_PANEL], min(num - p * QUERY_PANEL, QUERY_PANEL), dim,
                           NULL if coarse else &factors[0], self.job.centre, QUERY_PANEL,
                           &self.packed[p * QUERY_PANEL * dim])
        self.job.with_ = kernels_named(NULL if instructions is None else <const char*>wanted)
        if self.job.with_.name == NULL:
            raise ValueError(f"this CPU has no instruction set {instructions!r}")
        if coarse and not make_coarse(&self.job, coarse == "bytes"):
            raise ValueError(f"this CPU has no product of rounded {coarse}")
        self.is_coarse = bool(coarse)
        self.job.dim, self.job.slope, self.job.lowest = dim, slope, lowest
        self.job.queries, self.job.query_offsets = &self.packed[0], &offsets[0]
        self.job.num_queries = 0 if only_pairs else num

    def pairs(self, const float[:, ::1] gallery, const float[::1] factors, const float[::1] offsets,
              const int64_t[::1] query_of, const int64_t[::1] image_of, int num_threads):
        """Return the distances of pairs (query row, gallery row), float32."""
        cdef work job = self.job
        cdef float[::1] out = np.empty(query_of.shape[0], dtype=np.float32)
        if query_of.shape[0]:
            job.centre = &self.centre[0]
            job.gallery, job.gallery_factors, job.gallery_offsets = &gallery[0, 0], &factors[0], &offsets[0]
            with nogil:
                pair_distances(&job, &self.features[0, 0], &self.factors[0], &query_of[0], &image_of[0],
                               query_of.shape[0], &out[0], num_threads)
        return np.asarray(out)

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
        what.tally = job.with_.tally
        what.thresholds, what.positions, what.starts = &thresholds[0], &positions[0], &starts[0]
        what.to.before, what.to.below, what.to.at_most = &to[0, 0], &to[1, 0], &to[2, 0]
        with nogil:
            failed = compare_rows(&job, &rows[0], rows.shape[0], base, count_row, &what, False, num_threads)
        if failed:
            raise MemoryError("not enough memory for a block of distances")

    def take_off(self, const float[::1] removed, const int64_t[::1] places, const int64_t[::1] removed_starts,
                 const float[::1] thresholds, const int64_t[::1] positions, const int64_t[::1] starts,
                 int64_t[:, ::1] source):
        """Subtract removed images, at `places`, from the counts."""
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
        cdef writing to
        cdef int failed
        if rows.shape[0] == 0 or out.shape[0] == 0:
            return
        job.gallery, job.gallery_factors, job.gallery_offsets = &gallery[0, 0], &factors[0], &offsets[0]
        to.out, to.stride = &out[0, 0], out.shape[1]
        with nogil:
            failed = compare_rows(&job, &rows[0], rows.shape[0], column, write_row, &to, False, num_threads)
        if failed:
            raise MemoryError("not enough memory for a block of distances")

    def add_to(self, Histogram counter, const float[:, ::1] gallery, const float[::1] factors,
               const float[::1] offsets, const int64_t[::1] rows):
        """Add the distances to gallery `rows` to `counter`, in the number of threads that it was created with."""
        cdef work job = self.job
        cdef int failed
        if rows.shape[0] == 0 or job.num_queries == 0:
            return
        job.gallery, job.gallery_factors, job.gallery_offsets = &gallery[0, 0], &factors[0], &offsets[0]
        with nogil:
            failed = compare_rows(&job, &rows[0], rows.shape[0], 0, add_row, &counter.to, False, counter.bins.shape[0])
        if failed:
            raise MemoryError("not enough memory for a block of distances")

    def offer_to(self, NeighborLists lists, const float[:, ::1] gallery, const float[::1] factors,
                 const float[::1] offsets, int64_t base, bint each_pair_once=False):
        """Offer gallery images, numbered base, base + 1, …, to the queries' lists.

        With `each_pair_once` they are the queries of the same numbers: each pair is multiplied once and offered to both.
        """
        cdef work job = self.job
        cdef int failed
        cdef int64_t[::1] rows = np.arange(gallery.shape[0])
        if rows.shape[0] == 0:
            return
        job.gallery, job.gallery_factors, job.gallery_offsets = &gallery[0, 0], &factors[0], &offsets[0]
        if self.is_coarse:
            job.gallery_factors = NULL
        lists.lists.each_pair_once = each_pair_once
        with nogil:
            failed = compare_rows(&job, &rows[0], rows.shape[0], base, near_row_for(job.with_.name), &lists.lists,
                                  each_pair_once, lists.num_threads)
        if failed:
            raise MemoryError("not enough memory for a block of distances")
