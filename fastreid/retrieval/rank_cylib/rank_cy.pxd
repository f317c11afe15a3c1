# Declarations of the C functions and structs of the headers; Cython adds them to rank_cy.pyx.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint64_t

cdef extern from "products.h" nogil:
    enum:
        QUERY_PANEL
    ctypedef struct tally_kernel:
        pass
    ctypedef struct kernels:
        const char* name
        tally_kernel tally
    kernels kernels_named(const char* name)

cdef extern from "kernels.h" nogil:
    void pack_panel(const float* features, const int64_t* rows, int64_t count, int64_t dim, const float* factors,
                    const float* centre, int width, float* panel)
    void squares_of_centred(const float* features, const float* factors, const float* centre, int64_t count,
                            int64_t dim, double* squares, int num_threads)
    ctypedef struct work:
        kernels with_ "with"
        int64_t dim
        float slope
        float lowest
        const float* centre
        const float* queries
        const float* query_offsets
        int64_t num_queries
        const float* gallery
        const float* gallery_factors
        const float* gallery_offsets
    ctypedef struct writing:
        float* out
        int64_t stride
    ctypedef void (*row_consumer)(void* context, int thread, int64_t query, int64_t first, const float* row,
                                  int64_t count) noexcept nogil
    void write_row(void* context, int thread, int64_t query, int64_t first, const float* row,
                   int64_t count) noexcept
    int compare_rows(const work* job, const int64_t* rows, int64_t num_rows, int64_t base, row_consumer take,
                     void* context, int each_pair_once, int num_threads)
    void pair_distances(const work* job, const float* query_features, const float* query_factors,
                        const int64_t* query_of, const int64_t* image_of, int64_t num_pairs, float* out,
                        int num_threads)

cdef extern from "counting.h" nogil:
    ctypedef struct counts:
        int64_t* before
        int64_t* below
        int64_t* at_most
    ctypedef struct counting:
        tally_kernel tally
        const float* thresholds
        const int64_t* positions
        const int64_t* starts
        counts to
    void count_row(void* context, int thread, int64_t query, int64_t first, const float* row,
                   int64_t count) noexcept
    int count_a_matrix(const char* name, const void* matrix, int is_double, int64_t num_queries, int64_t num_gallery,
                       const void* thresholds, const int64_t* positions, const int64_t* starts,
                       const int64_t* removed, const int64_t* removed_starts, const int64_t* junk, int64_t num_junk,
                       const int64_t* junk_places, counts to, int num_threads)
    int floats_are_finite(const float* values, int64_t count, int num_threads)
    int doubles_are_finite(const double* values, int64_t count, int num_threads)
    void take_off_all(const float* removed, const int64_t* places, const int64_t* removed_starts,
                      const float* thresholds, const int64_t* positions, const int64_t* starts, int64_t num_queries,
                      counts source)

cdef extern from "neighbors.h" nogil:
    ctypedef struct key_lists:
        uint64_t* keys
        int64_t* counts
        float* reach
        uint8_t* locks
        int64_t k
        int64_t room
    ctypedef struct neighbor_lists:
        key_lists near
        key_lists far
        float* farthest
        int64_t n
        int each_pair_once
    row_consumer near_row_for(const char* instructions)
    void read_lists(key_lists* lists, int64_t n, int32_t* indices, float* distances, int num_threads)
    void row_products(const float* features, const float* centre, int64_t dim, const int32_t* left,
                      const int32_t* right, int64_t num_pairs, float* out, int num_threads)
    int list_products(const float* features, int64_t dim, const int32_t* lists, int64_t num_lists, int64_t length,
                      float* out, int num_threads)
    ctypedef struct sparse:
        const int64_t* starts
        const int32_t* indices
        const float* weights
    int jaccard_rows_ "jaccard_rows"(sparse rows, sparse columns, int64_t num_others, int64_t first, int64_t last,
                                     float max_distance, const int64_t* bounds, int32_t* indices, float* distances,
                                     int64_t* counts, int num_threads)

cdef extern from "coarse.h" nogil:
    void take_products(const work* job, const uint16_t* products, int64_t first_query, int64_t num_queries,
                       int64_t first_image, int64_t num_images, row_consumer take, void* context, int num_threads)

cdef extern from "bytes.h" nogil:
    void round_rows(const float* features, const float* factors, const float* centre, float unit, int64_t count,
                    int64_t dim, uint8_t* rounded, double* lengths, double* residuals, int num_threads)
    int make_coarse(work* job, int of_bytes)

cdef extern from "histogram.h" nogil:
    ctypedef struct histogram:
        float low
        float scale
        int64_t num_cells
        int cells_per_bin
        const float* thresholds
        const int32_t* cell_starts
        int64_t num_bins
        int64_t num_steps
        int64_t* bins
        int64_t* steps
        int64_t* ties
    void add_row(void* context, int thread, int64_t query, int64_t first, const float* row, int64_t count) noexcept
    void add_all(const histogram* to, const float* values, int64_t count, int64_t sign, int num_threads)
    void cells_of(const histogram* like, const float* values, int64_t count, int64_t* out)
