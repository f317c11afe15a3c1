/* Products and counts of one block of queries against one chunk of the gallery, for the instruction set at hand.
 *
 * Every product is one chain of fused multiply-adds over k = 0 … D-1, whatever the instruction set: lanes are other
 * gallery images, never other parts of a sum. That is why all of them give the same bits.
 */
#ifndef FASTREID_RANK_KERNELS_H
#define FASTREID_RANK_KERNELS_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

/* Rows of queries and of gallery images in a packed panel. 14 x 2 registers of 16 floats leave 4 of AVX-512's 32 free;
 * the other instruction sets take such a panel in pieces. */
enum { QUERY_PANEL = 14, GALLERY_PANEL = 32 };

/* How many of `row` are below `threshold`, and how many at most. */
typedef struct { int64_t below, at_most; } tally;
/* products[QUERY_PANEL x GALLERY_PANEL] of a query panel [D x QUERY_PANEL] and a gallery panel [D x GALLERY_PANEL];
 * rows of products are `stride` apart. */
typedef void (*product_kernel)(const float *queries, const float *gallery, int64_t dim, float *products, int64_t stride);
typedef tally (*tally_kernel)(const float *row, int64_t count, float threshold);
/* In place: products -> distances, max(lowest, (query_offset + gallery_offsets[i]) + slope * product), the last sum fused. */
typedef void (*distance_kernel)(float *row, int64_t count, float query_offset, const float *gallery_offsets, float slope,
                                float lowest);

/* Products of PAIRS pairs of rows, each `placed`: as many chains at once as hide a fused multiply-add's latency. */
enum { PAIRS = 8 };
typedef void (*pair_kernel)(const float *const *queries, const float *const *images, const float *query_factors,
                            const float *image_factors, const float *centre, int64_t dim, float *products);

/* A number of a row as it is multiplied: times the row's factor, less the centre that all rows share. Two roundings,
 * the same everywhere. */
static inline float placed(float value, float factor, float centre) { return value * factor - centre; }

#define DEFINE_PAIRS(name)                                                                                           \
    static void name(const float *const *queries, const float *const *images, const float *query_factors,            \
                     const float *image_factors, const float *centre, int64_t dim, float *products) {                \
        float sums[PAIRS] = {0};                                                                                     \
        for (int64_t k = 0; k < dim; k++)                                                                            \
            for (int p = 0; p < PAIRS; p++)                                                                          \
                sums[p] = fmaf(placed(queries[p][k], query_factors[p], centre[k]),                                   \
                               placed(images[p][k], image_factors[p], centre[k]), sums[p]);                          \
        memcpy(products, sums, sizeof sums);                                                                         \
    }
DEFINE_PAIRS(pairs_portable)

#define DEFINE_DISTANCES(name)                                                                                       \
    static void name(float *row, int64_t count, float query_offset, const float *gallery_offsets, float slope,       \
                     float lowest) {                                                                                 \
        for (int64_t i = 0; i < count; i++) {                                                                        \
            const float distance = fmaf(slope, row[i], query_offset + gallery_offsets[i]);                           \
            row[i] = distance < lowest ? lowest : distance;                                                          \
        }                                                                                                            \
    }
DEFINE_DISTANCES(distances_portable)

static void product_portable(const float *queries, const float *gallery, int64_t dim, float *products, int64_t stride) {
    for (int q = 0; q < QUERY_PANEL; q++) {
        float sums[GALLERY_PANEL] = {0};
        for (int64_t k = 0; k < dim; k++)
            for (int g = 0; g < GALLERY_PANEL; g++)
                sums[g] = fmaf(queries[k * QUERY_PANEL + q], gallery[k * GALLERY_PANEL + g], sums[g]);
        memcpy(products + q * stride, sums, sizeof sums);
    }
}

static tally tally_portable(const float *row, int64_t count, float threshold) {
    tally found = {0, 0};
    for (int64_t i = 0; i < count; i++) {
        found.below += row[i] < threshold;
        found.at_most += row[i] <= threshold;
    }
    return found;
}

#if defined(__GNUC__) && defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl"))) DEFINE_DISTANCES(distances_avx512)
__attribute__((target("avx2,fma"))) DEFINE_DISTANCES(distances_avx2)

/* Eight rows of eight floats become eight columns. */
__attribute__((target("avx2,fma"))) static inline void transpose8(__m256 *rows) {
    __m256 twos[8], fours[8];
    for (int i = 0; i < 4; i++) {
        twos[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
        twos[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        fours[i] = _mm256_shuffle_ps(twos[i], twos[i + 2], 0x44);
        fours[i + 1] = _mm256_shuffle_ps(twos[i], twos[i + 2], 0xEE);
        fours[i + 2] = _mm256_shuffle_ps(twos[i + 1], twos[i + 3], 0x44);
        fours[i + 3] = _mm256_shuffle_ps(twos[i + 1], twos[i + 3], 0xEE);
    }
    for (int i = 0; i < 4; i++) {
        rows[i] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20);
        rows[i + 4] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31);
    }
}

/* The same chains, a lane for each pair. */
__attribute__((target("avx2,fma"))) static void
pairs_avx2(const float *const *queries, const float *const *images, const float *query_factors,
           const float *image_factors, const float *centre, int64_t dim, float *products) {
    const __m256 of_queries = _mm256_loadu_ps(query_factors), of_images = _mm256_loadu_ps(image_factors);
    __m256 sums = _mm256_setzero_ps();
    int64_t k = 0;
    for (; k + 8 <= dim; k += 8) {
        __m256 a[PAIRS], b[PAIRS];
        for (int p = 0; p < PAIRS; p++) {
            a[p] = _mm256_loadu_ps(queries[p] + k);
            b[p] = _mm256_loadu_ps(images[p] + k);
        }
        transpose8(a);
        transpose8(b);
        for (int i = 0; i < 8; i++) {
            const __m256 middle = _mm256_broadcast_ss(centre + k + i);
            sums = _mm256_fmadd_ps(_mm256_sub_ps(_mm256_mul_ps(a[i], of_queries), middle),
                                   _mm256_sub_ps(_mm256_mul_ps(b[i], of_images), middle), sums);
        }
    }
    _mm256_storeu_ps(products, sums);
    for (; k < dim; k++)
        for (int p = 0; p < PAIRS; p++)
            products[p] = fmaf(placed(queries[p][k], query_factors[p], centre[k]),
                               placed(images[p][k], image_factors[p], centre[k]), products[p]);
}

__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,popcnt"))) static void
product_avx512(const float *queries, const float *gallery, int64_t dim, float *products, int64_t stride) {
    __m512 sums[QUERY_PANEL][2];
    for (int q = 0; q < QUERY_PANEL; q++)
        sums[q][0] = sums[q][1] = _mm512_setzero_ps();
    for (int64_t k = 0; k < dim; k++) {
        const __m512 low = _mm512_loadu_ps(gallery), high = _mm512_loadu_ps(gallery + 16);
#pragma GCC unroll 14
        for (int q = 0; q < QUERY_PANEL; q++) {
            const __m512 value = _mm512_set1_ps(queries[q]);
            sums[q][0] = _mm512_fmadd_ps(value, low, sums[q][0]);
            sums[q][1] = _mm512_fmadd_ps(value, high, sums[q][1]);
        }
        queries += QUERY_PANEL;
        gallery += GALLERY_PANEL;
    }
    for (int q = 0; q < QUERY_PANEL; q++) {
        _mm512_storeu_ps(products + q * stride, sums[q][0]);
        _mm512_storeu_ps(products + q * stride + 16, sums[q][1]);
    }
}

__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,popcnt"))) static tally
tally_avx512(const float *row, int64_t count, float threshold) {
    tally found = {0, 0};
    const __m512 limit = _mm512_set1_ps(threshold);
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
        const __m512 values = _mm512_loadu_ps(row + i);
        found.below += __builtin_popcount(_mm512_cmp_ps_mask(values, limit, _CMP_LT_OQ));
        found.at_most += __builtin_popcount(_mm512_cmp_ps_mask(values, limit, _CMP_LE_OQ));
    }
    const tally rest = tally_portable(row + i, count - i, threshold);
    return (tally){found.below + rest.below, found.at_most + rest.at_most};
}

/* 16 registers: 14 sums, 8 gallery images, one query's number. */
__attribute__((target("avx2,fma,popcnt"))) static void
product_avx2(const float *queries, const float *gallery, int64_t dim, float *products, int64_t stride) {
    for (int first = 0; first < GALLERY_PANEL; first += 8) {
        __m256 sums[QUERY_PANEL];
        for (int q = 0; q < QUERY_PANEL; q++)
            sums[q] = _mm256_setzero_ps();
        const float *a = queries, *b = gallery + first;
        for (int64_t k = 0; k < dim; k++, a += QUERY_PANEL, b += GALLERY_PANEL) {
            const __m256 images = _mm256_loadu_ps(b);
#pragma GCC unroll 14
            for (int q = 0; q < QUERY_PANEL; q++)
                sums[q] = _mm256_fmadd_ps(_mm256_broadcast_ss(a + q), images, sums[q]);
        }
        for (int q = 0; q < QUERY_PANEL; q++)
            _mm256_storeu_ps(products + q * stride + first, sums[q]);
    }
}

__attribute__((target("avx2,fma,popcnt"))) static tally
tally_avx2(const float *row, int64_t count, float threshold) {
    tally found = {0, 0};
    const __m256 limit = _mm256_set1_ps(threshold);
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) {
        const __m256 values = _mm256_loadu_ps(row + i);
        found.below += __builtin_popcount(_mm256_movemask_ps(_mm256_cmp_ps(values, limit, _CMP_LT_OQ)));
        found.at_most += __builtin_popcount(_mm256_movemask_ps(_mm256_cmp_ps(values, limit, _CMP_LE_OQ)));
    }
    const tally rest = tally_portable(row + i, count - i, threshold);
    return (tally){found.below + rest.below, found.at_most + rest.at_most};
}
#endif

typedef struct {
    const char *name;
    product_kernel product;
    tally_kernel tally;
    distance_kernel distances;
    pair_kernel pairs;
} kernels;

/* The instruction set called `name`, or for NULL the widest that this CPU has; name is NULL in what is returned if the
 * CPU lacks it. On ARM the compiler makes the portable one NEON. */
static kernels kernels_named(const char *name) {
    kernels found = {NULL, NULL, NULL, NULL, NULL};
#if defined(__GNUC__) && defined(__x86_64__)
    __builtin_cpu_init();
    if ((!name || !strcmp(name, "avx512")) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return (kernels){"avx512", product_avx512, tally_avx512, distances_avx512, pairs_avx2};
    if ((!name || !strcmp(name, "avx2")) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return (kernels){"avx2", product_avx2, tally_avx2, distances_avx2, pairs_avx2};
#endif
    if (!name || !strcmp(name, "portable"))
        return (kernels){"portable", product_portable, tally_portable, distances_portable, pairs_portable};
    return found;
}

/* Rows of features [rows x dim], `placed` by a factor each and the centre (NULL: zero, the same bits; no factors: as they
 * are, bit for bit), side by side: [panels x dim x width], missing rows zero. */
static void pack_panel(const float *features, const int64_t *rows, int64_t count, int64_t dim, const float *factors,
                       const float *centre, int width, float *panel) {
    for (int64_t r = 0; r < width; r++) {
        if (r >= count) {
            for (int64_t k = 0; k < dim; k++)
                panel[k * width + r] = 0.0f;
            continue;
        }
        const float *row = features + rows[r] * dim;
        for (int64_t k = 0; k < dim && !factors; k++)
            panel[k * width + r] = row[k];
        for (int64_t k = 0; k < dim && factors && centre; k++)
            panel[k * width + r] = placed(row[k], factors[rows[r]], centre[k]);
        for (int64_t k = 0; k < dim && factors && !centre; k++)
            panel[k * width + r] = row[k] * factors[rows[r]];
    }
}

/* Squared lengths of rows, placed if there are factors, summed in one order everywhere: eight partial sums, then those. */
#define DEFINE_SQUARES(name)                                                                                          \
    static double name(const float *row, const float *factor, const float *centre, int64_t dim) {                    \
        double sums[8] = {0};                                                                                         \
        int64_t k = 0;                                                                                                \
        for (; factor && k + 8 <= dim; k += 8)                                                                        \
            for (int lane = 0; lane < 8; lane++) {                                                                    \
                const double value = placed(row[k + lane], *factor, centre[k + lane]);                                \
                sums[lane] += value * value;                                                                          \
            }                                                                                                         \
        for (; !factor && k + 8 <= dim; k += 8)                                                                       \
            for (int lane = 0; lane < 8; lane++) {                                                                    \
                const double value = row[k + lane];                                                                   \
                sums[lane] += value * value;                                                                          \
            }                                                                                                         \
        for (; k < dim; k++) {                                                                                        \
            const double value = factor ? placed(row[k], *factor, centre[k]) : row[k];                                \
            sums[k % 8] += value * value;                                                                             \
        }                                                                                                             \
        return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));             \
    }
DEFINE_SQUARES(squares_portable)
#if defined(__GNUC__) && defined(__x86_64__)
__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl"))) DEFINE_SQUARES(squares_avx512)
__attribute__((target("avx2,fma"))) DEFINE_SQUARES(squares_avx2)
#endif

static void squares_of_placed(const float *features, const float *factors, const float *centre, int64_t count,
                              int64_t dim, double *squares, int num_threads) {
    double (*squares_of)(const float *, const float *, const float *, int64_t) = squares_portable;
#if defined(__GNUC__) && defined(__x86_64__)
    const char *name = kernels_named(NULL).name;
    squares_of = !strcmp(name, "avx512") ? squares_avx512 : !strcmp(name, "avx2") ? squares_avx2 : squares_of;
#endif
#pragma omp parallel for schedule(static) num_threads(num_threads)
    for (int64_t r = 0; r < count; r++)
        squares[r] = squares_of(features + r * dim, factors ? factors + r : NULL, centre, dim);
}

/* Work of one call: which distances are made of the products, and who is compared with whom. */
typedef struct {
    kernels with;
    int64_t dim;
    float slope, lowest;
    const float *centre;          /* [dim] of all rows that have factors, or NULL for zero */
    const float *queries;         /* [num_queries / QUERY_PANEL, rounded up, x dim x QUERY_PANEL], placed */
    const float *query_offsets;   /* [num_queries] */
    int64_t num_queries;
    const float *gallery;         /* features [… x dim], not placed */
    const float *gallery_factors; /* [rows of gallery], or NULL */
    const float *gallery_offsets; /* [rows of gallery] */
} work;

/* How many gallery images fit into half of a usual L2 cache beside the queries; whole panels. */
static int64_t chunk_size(int64_t dim) {
    const int64_t images = (512 << 10) / (int64_t)sizeof(float) / (dim > 0 ? dim : 1) / GALLERY_PANEL * GALLERY_PANEL;
    return images < GALLERY_PANEL ? GALLERY_PANEL : images > 384 ? 384 : images;
}

/* Distances of one query panel to `count` gallery images that are packed in `panels`; rows of tile are `stride` apart. */
static void panel_distances(const work *job, int64_t panel, const float *panels, const float *offsets, int64_t count,
                            float *tile, int64_t stride) {
    const int64_t first = panel * QUERY_PANEL, left = job->num_queries - first;
    for (int64_t g = 0; g < count; g += GALLERY_PANEL)
        job->with.product(job->queries + first * job->dim, panels + g * job->dim, job->dim, tile + g, stride);
    for (int64_t q = 0; q < (left < QUERY_PANEL ? left : QUERY_PANEL); q++)
        job->with.distances(tile + q * stride, count, job->query_offsets[first + q], offsets, job->slope, job->lowest);
}

static void pack_gallery(const work *job, const int64_t *rows, int64_t count, float *panels, float *offsets) {
    for (int64_t g = 0; g < count; g += GALLERY_PANEL) {
        const int64_t left = count - g;
        pack_panel(job->gallery, rows + g, left < GALLERY_PANEL ? left : GALLERY_PANEL, job->dim, job->gallery_factors,
                   job->centre, GALLERY_PANEL, panels + g * job->dim);
    }
    for (int64_t g = 0; g < count; g++)
        offsets[g] = job->gallery_offsets[rows[g]];
}

/* For each (query, right image): how many images are before it, below its distance, and at most at its distance. */
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

/* Add to the counts of one query, `sign` times, what is before, below and at most each of its thresholds among the images
 * at positions begin … end - 1. Thresholds and positions are in ranked order. */
#define DEFINE_TALLY_QUERY(name, real, tally_function)                                                                 \
    static void name(tally_function with, const real *row, int64_t begin, int64_t end, const real *thresholds,         \
                     const int64_t *positions, int64_t count, int64_t sign, counts to) {                               \
        for (int64_t j = count - 1; j >= 0; j--) {                                                                     \
            const int64_t split = positions[j] < begin ? begin : positions[j] > end ? end : positions[j];              \
            /* Most chunks lie on one side of the position: one look then. */                                          \
            const tally lower = split > begin ? with(row, split - begin, thresholds[j]) : (tally){0, 0};               \
            const tally upper =                                                                                        \
                split < end ? with(row + (split - begin), end - split, thresholds[j]) : (tally){0, 0};                 \
            if (lower.at_most + upper.at_most == 0)                                                                    \
                break; /* then none is near enough for the smaller thresholds either */                                \
            add(to.before + j, sign * (lower.at_most + upper.below)); /* equal distance: the lower position first */   \
            add(to.below + j, sign * (lower.below + upper.below));                                                     \
            add(to.at_most + j, sign * (lower.at_most + upper.at_most));                                               \
        }                                                                                                              \
    }
DEFINE_TALLY_QUERY(tally_query, float, tally_kernel)
DEFINE_TALLY_QUERY(tally_query_double, double, double_tally)

/* Take the removed images of one query, at `places`, off its counts. */
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

/* What becomes of a row of distances, of one query to the images at positions first, first + 1, …; called in threads. */
typedef void (*row_consumer)(void *context, int thread, int64_t query, int64_t first, const float *row, int64_t count);

static int this_thread(void) {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

/* Compare all queries with the gallery `rows`, at positions base, base + 1, …, one chunk after the other, in threads. With
 * `each_pair_once` queries and images are the same, and an image meets only those up to its own position, and a few in
 * its panel: `take` is to leave those. Returns 0, or 1 if memory ran out. */
static int compare_rows(const work *job, const int64_t *rows, int64_t num_rows, int64_t base, row_consumer take,
                        void *context, int each_pair_once, int num_threads) {
    const int64_t chunk = chunk_size(job->dim), num_chunks = (num_rows + chunk - 1) / chunk;
    int failed = 0;
#pragma omp parallel num_threads(num_threads)
    {
        float *panels = malloc(sizeof(float) * (size_t)(chunk * (job->dim + 1 + QUERY_PANEL)));
        float *offsets = panels + chunk * job->dim, *tile = offsets + chunk;
        if (!panels) {
#pragma omp atomic write
            failed = 1;
        }
        /* From the last one: of pairs that are met once it has most queries, and long work goes first. */
#pragma omp for schedule(dynamic)
        for (int64_t n = num_chunks - 1; n >= 0; n--) {
            const int64_t c = n * chunk, count = num_rows - c < chunk ? num_rows - c : chunk;
            const int64_t num_queries = each_pair_once ? base + c + count : job->num_queries;
            if (!panels)
                continue;
            pack_gallery(job, rows + c, count, panels, offsets);
            for (int64_t first = 0; first < num_queries; first += QUERY_PANEL) {
                panel_distances(job, first / QUERY_PANEL, panels, offsets, count, tile, chunk);
                for (int64_t i = 0; i < QUERY_PANEL && first + i < num_queries; i++)
                    take(context, this_thread(), first + i, base + c, tile + i * chunk, count);
            }
        }
        free(panels);
    }
    return failed;
}

/* Row consumer: counts. thresholds of right images and their positions, from starts[q] on for query q, and where the
 * counts go. */
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

/* Row consumer: copies into a matrix whose rows are `stride` apart. */
typedef struct {
    float *out;
    int64_t stride;
} writing;

static void write_row(void *context, int thread, int64_t query, int64_t first, const float *row, int64_t count) {
    const writing *to = context;
    (void)thread;
    memcpy(to->out + query * to->stride + first, row, sizeof(float) * (size_t)count);
}

/* Whether `count` numbers are all finite: no infinity or NaN is left of zero times them. */
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

/* Count a ready matrix [num_queries x num_gallery], junk columns and removed images left out. junk_places: of each right
 * image, how many junk columns stand before it. Returns 0, or 1 if memory ran out. */
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
                for (int64_t begin = 0; begin < num_gallery; begin += 512) { /* so that most blocks need one look */   \
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

/* Distances of single pairs, with the very sums of the panels. */
static void pair_distances(const work *job, const float *query_features, const float *query_factors,
                           const int64_t *query_of, const int64_t *image_of, int64_t num_pairs, float *out,
                           int num_threads) {
#pragma omp parallel for schedule(static) num_threads(num_threads)
    for (int64_t first = 0; first < num_pairs; first += PAIRS) {
        const float *queries[PAIRS], *images[PAIRS];
        float query_factor[PAIRS], image_factor[PAIRS], sums[PAIRS];
        for (int64_t p = 0; p < PAIRS; p++) { /* beyond the end: the last pair again */
            const int64_t pair = first + p < num_pairs ? first + p : num_pairs - 1;
            queries[p] = query_features + query_of[pair] * job->dim;
            images[p] = job->gallery + image_of[pair] * job->dim;
            query_factor[p] = query_factors[query_of[pair]];
            image_factor[p] = job->gallery_factors[image_of[pair]];
        }
        job->with.pairs(queries, images, query_factor, image_factor, job->centre, job->dim, sums);
        for (int64_t p = 0; p < PAIRS && first + p < num_pairs; p++) {
            const int64_t q = query_of[first + p], g = image_of[first + p];
            job->with.distances(sums + p, 1, job->query_offsets[q], job->gallery_offsets + g, job->slope, job->lowest);
            out[first + p] = sums[p];
        }
    }
}

#endif
