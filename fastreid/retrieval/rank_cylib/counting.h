/* Counts of the images that are nearer than each positive, of distances that are computed chunk by chunk or given as a
 * matrix. */
#ifndef FASTREID_RANK_COUNTING_H
#define FASTREID_RANK_COUNTING_H

#include "kernels.h"

/* For each positive of each query: the numbers of images before it, below its distance, and at most at its distance. */
typedef struct { int64_t *before, *below, *at_most; } counts;

static counts counts_from(counts whole, int64_t start) {
    return (counts){whole.before + start, whole.below + start, whole.at_most + start};
}

typedef tally (*double_tally)(const double *row, int64_t count, double threshold);
static tally tally_doubles(const double *row, int64_t count, double threshold) {
    tally found = {0, 0};
    for (int64_t i = 0; i < count; i++) {
        found.below += row[i] < threshold;
        found.at_most += row[i] <= threshold;
    }
    return found;
}

static void add(int64_t *total, int64_t count) {
#ifdef __GNUC__
    __atomic_fetch_add(total, count, __ATOMIC_RELAXED);
#else
    *total += count; /* without OpenMP there is one thread */
#endif
}

/* Adds to the counts of one query, `sign` times, the images at positions begin … end - 1 that are before, below and at most
 * at each of its thresholds. Thresholds and positions are in ranked order. */
#define DEFINE_TALLY_QUERY(name, real, tally_function)                                                                 \
    static void name(tally_function with, const real *row, int64_t begin, int64_t end, const real *thresholds,         \
                     const int64_t *positions, int64_t count, int64_t sign, counts to) {                               \
        for (int64_t j = count - 1; j >= 0; j--) {                                                                     \
            const int64_t split = positions[j] < begin ? begin : positions[j] > end ? end : positions[j];              \
            /* Most chunks lie on one side of the position and need one pass. */                                       \
            const tally lower = split > begin ? with(row, split - begin, thresholds[j]) : (tally){0, 0};               \
            const tally upper =                                                                                        \
                split < end ? with(row + (split - begin), end - split, thresholds[j]) : (tally){0, 0};                 \
            if (lower.at_most + upper.at_most == 0)                                                                    \
                break; /* no image is near enough for the smaller thresholds either */                                 \
            add(to.before + j, sign * (lower.at_most + upper.below)); /* equal distance: the lower position first */   \
            add(to.below + j, sign * (lower.below + upper.below));                                                     \
            add(to.at_most + j, sign * (lower.at_most + upper.at_most));                                               \
        }                                                                                                              \
    }
DEFINE_TALLY_QUERY(tally_query, float, tally_kernel)
DEFINE_TALLY_QUERY(tally_query_double, double, double_tally)

/* Subtracts the removed images of one query, at `places`, from its counts. */
#define DEFINE_TAKE_OFF(name, real)                                                                                    \
    static void name(const real *removed, const int64_t *places, int64_t num_removed, const real *thresholds,          \
                     const int64_t *positions, int64_t count, counts from) {                                           \
        for (int64_t r = 0; r < num_removed; r++)                                                                      \
            for (int64_t j = count - 1; j >= 0 && removed[r] <= thresholds[j]; j--) {                                  \
                const int is_below = removed[r] < thresholds[j];                                                       \
                from.before[j] -= is_below || places[r] < positions[j];                                                \
                from.below[j] -= is_below;                                                                             \
                from.at_most[j]--;                                                                                     \
            }                                                                                                          \
    }
DEFINE_TAKE_OFF(take_off, float)
DEFINE_TAKE_OFF(take_off_double, double)

/* Row consumer: counts. The positives of query q have the thresholds and positions from starts[q] on. */
typedef struct {
    tally_kernel tally;
    const float *thresholds;
    const int64_t *positions, *starts;
    counts to;
} counting;

static void count_row(void *context, int thread, int64_t query, int64_t first, const float *row, int64_t count) {
    const counting *what = context;
    const int64_t s = what->starts[query];
    (void)thread;
    tally_query(what->tally, row, first, first + count, what->thresholds + s, what->positions + s,
                what->starts[query + 1] - s, 1, counts_from(what->to, s));
}

/* Returns whether all values are finite: zero times infinity or NaN is NaN. */
#define DEFINE_ALL_FINITE(name, real)                                                                                  \
    static int name(const real *values, int64_t count, int num_threads) {                                              \
        const int64_t at_once = 1 << 15;                                                                               \
        int fine = 1;                                                                                                  \
        _Pragma("omp parallel for schedule(static) num_threads(num_threads) reduction(&& : fine)")                     \
        for (int64_t begin = 0; begin < count; begin += at_once) {                                                     \
            const int64_t end = begin + at_once < count ? begin + at_once : count;                                     \
            real sums[16] = {0};                                                                                       \
            int64_t i = begin;                                                                                         \
            for (; i + 16 <= end; i += 16)                                                                             \
                for (int lane = 0; lane < 16; lane++)                                                                  \
                    sums[lane] += 0 * values[i + lane];                                                                \
            for (; i < end; i++)                                                                                       \
                sums[0] += 0 * values[i];                                                                              \
            for (int lane = 0; lane < 16; lane++)                                                                      \
                fine = fine && sums[lane] == 0;                                                                        \
        }                                                                                                              \
        return fine;                                                                                                   \
    }
DEFINE_ALL_FINITE(floats_are_finite, float)
DEFINE_ALL_FINITE(doubles_are_finite, double)

/* Counts a given matrix [num_queries x num_gallery] without junk columns and removed images. junk_places: for each
 * positive, the number of junk columns before it. Returns 0, or 1 if memory ran out. */
#define DEFINE_COUNT_MATRIX(name, real, tally_one, take_off_one, tally_function)                                       \
    static int name(tally_function with, const real *matrix, int64_t num_queries, int64_t num_gallery,                 \
                    const real *thresholds, const int64_t *positions, const int64_t *starts, const int64_t *removed,   \
                    const int64_t *removed_starts, const int64_t *junk, int64_t num_junk, const int64_t *junk_places,  \
                    counts to, int num_threads) {                                                                      \
        int failed = 0;                                                                                                \
        _Pragma("omp parallel num_threads(num_threads)") {                                                             \
            real *some = malloc(sizeof(real) * (size_t)(num_gallery + 1));                                             \
            if (!some) {                                                                                               \
                _Pragma("omp atomic write") failed = 1;                                                                \
            }                                                                                                          \
            _Pragma("omp for schedule(dynamic, 16)") for (int64_t q = 0; q < num_queries; q++) {                       \
                const real *row = matrix + q * num_gallery;                                                            \
                const int64_t s = starts[q], count = starts[q + 1] - s;                                                \
                const int64_t r = removed_starts[q], num_removed = removed_starts[q + 1] - r;                          \
                if (!some || !count)                                                                                   \
                    continue;                                                                                          \
                for (int64_t begin = 0; begin < num_gallery; begin += 512) { /* most blocks need one pass then */     \
                    const int64_t end = begin + 512 < num_gallery ? begin + 512 : num_gallery;                         \
                    tally_one(with, row + begin, begin, end, thresholds + s, positions + s, count, 1,                  \
                              counts_from(to, s));                                                                     \
                }                                                                                                      \
                for (int64_t i = 0; i < num_junk; i++)                                                                 \
                    some[i] = row[junk[i]];                                                                            \
                tally_one(with, some, 0, num_junk, thresholds + s, junk_places + s, count, -1, counts_from(to, s));    \
                for (int64_t i = 0; i < num_removed; i++)                                                              \
                    some[i] = row[removed[r + i]];                                                                     \
                take_off_one(some, removed + r, num_removed, thresholds + s, positions + s, count, counts_from(to, s));\
            }                                                                                                          \
            free(some);                                                                                                \
        }                                                                                                              \
        return failed;                                                                                                 \
    }
DEFINE_COUNT_MATRIX(count_floats, float, tally_query, take_off, tally_kernel)
DEFINE_COUNT_MATRIX(count_doubles, double, tally_query_double, take_off_double, double_tally)

static int count_a_matrix(const char *name, const void *matrix, int is_double, int64_t num_queries, int64_t num_gallery,
                          const void *thresholds, const int64_t *positions, const int64_t *starts,
                          const int64_t *removed, const int64_t *removed_starts, const int64_t *junk, int64_t num_junk,
                          const int64_t *junk_places, counts to, int num_threads) {
    if (is_double)
        return count_doubles(tally_doubles, matrix, num_queries, num_gallery, thresholds, positions, starts, removed,
                             removed_starts, junk, num_junk, junk_places, to, num_threads);
    return count_floats(kernels_named(name).tally, matrix, num_queries, num_gallery, thresholds, positions, starts,
                        removed, removed_starts, junk, num_junk, junk_places, to, num_threads);
}

static void take_off_all(const float *removed, const int64_t *places, const int64_t *removed_starts,
                         const float *thresholds, const int64_t *positions, const int64_t *starts, int64_t num_queries,
                         counts from) {
    for (int64_t q = 0; q < num_queries; q++) {
        const int64_t s = starts[q], r = removed_starts[q];
        take_off(removed + r, places + r, removed_starts[q + 1] - r, thresholds + s, positions + s, starts[q + 1] - s,
                 counts_from(from, s));
    }
}

#endif
