/* Inner products, distances and counts of a panel of queries and a panel of the gallery, for each instruction set.
 *
 * Every product is one chain of fused multiply-adds over k = 0 … D-1, whatever the instruction set: lanes are other
 * gallery images, never other parts of a sum. So all of them give the same bits.
 */
#ifndef FASTREID_RANK_PRODUCTS_H
#define FASTREID_RANK_PRODUCTS_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

/* Rows of queries and of gallery images in a packed panel. 14 x 2 registers of 16 floats leave 4 of AVX-512's 32 free;
 * the other instruction sets process such a panel in parts. */
enum { QUERY_PANEL = 14, GALLERY_PANEL = 32 };

/* Numbers of values below a threshold, and at most at it. */
typedef struct { int64_t below, at_most; } tally;
/* Computes products[QUERY_PANEL x GALLERY_PANEL] of a query panel [D x QUERY_PANEL] and a gallery panel
 * [D x GALLERY_PANEL]; rows of products are `stride` apart. */
typedef void (*product_kernel)(const float *queries, const float *gallery, int64_t dim, float *products, int64_t stride);
typedef tally (*tally_kernel)(const float *row, int64_t count, float threshold);
/* In place: products -> distances, max(lowest, (query_offset + gallery_offsets[i]) + slope * product), the last sum fused. */
typedef void (*distance_kernel)(float *row, int64_t count, float query_offset, const float *gallery_offsets, float slope,
                                float lowest);

/* Computes the products of PAIRS pairs of rows, each scaled and `centred`; as many chains in parallel as hide the latency
 * of a fused multiply-add. */
enum { PAIRS = 8 };
typedef void (*pair_kernel)(const float *const *queries, const float *const *images, const float *query_factors,
                            const float *image_factors, const float *centre, int64_t dim, float *products);

/* Computes the products of one query, which is scaled and `centred` already, and IMAGES images. */
enum { IMAGES = 16 };
typedef void (*query_kernel)(const float *query, const float *const *images, const float *image_factors,
                             const float *centre, int64_t dim, float *products);

/* Scales a value by its row's factor and subtracts the centre that all rows share; two roundings, the same for all
 * instruction sets. */
static inline float centred(float value, float factor, float centre) { return value * factor - centre; }

#define DEFINE_PAIRS(name)                                                                                           \
    static void name(const float *const *queries, const float *const *images, const float *query_factors,            \
                     const float *image_factors, const float *centre, int64_t dim, float *products) {                \
        float sums[PAIRS] = {0};                                                                                     \
        for (int64_t k = 0; k < dim; k++)                                                                            \
            for (int p = 0; p < PAIRS; p++)                                                                          \
                sums[p] = fmaf(centred(queries[p][k], query_factors[p], centre[k]),                                   \
                               centred(images[p][k], image_factors[p], centre[k]), sums[p]);                          \
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

/* Transposes eight rows of eight floats. */
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

/* The same chains, with a lane for each pair. */
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
            products[p] = fmaf(centred(queries[p][k], query_factors[p], centre[k]),
                               centred(images[p][k], image_factors[p], centre[k]), products[p]);
}

/* Transposes sixteen rows of sixteen floats. */
__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl"))) static inline void transpose16(__m512 *rows) {
    __m512 twos[16], fours[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        twos[2 * i] = _mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
        twos[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        fours[i] = _mm512_shuffle_ps(twos[i], twos[i + 2], 0x44);
        fours[i + 1] = _mm512_shuffle_ps(twos[i], twos[i + 2], 0xEE);
        fours[i + 2] = _mm512_shuffle_ps(twos[i + 1], twos[i + 3], 0x44);
        fours[i + 3] = _mm512_shuffle_ps(twos[i + 1], twos[i + 3], 0xEE);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* quarters of the same columns of four times four rows */
        const __m512 even_low = _mm512_shuffle_f32x4(fours[i], fours[i + 4], 0x88);
        const __m512 odd_low = _mm512_shuffle_f32x4(fours[i], fours[i + 4], 0xDD);
        const __m512 even_high = _mm512_shuffle_f32x4(fours[i + 8], fours[i + 12], 0x88);
        const __m512 odd_high = _mm512_shuffle_f32x4(fours[i + 8], fours[i + 12], 0xDD);
        rows[i] = _mm512_shuffle_f32x4(even_low, even_high, 0x88);
        rows[i + 4] = _mm512_shuffle_f32x4(odd_low, odd_high, 0x88);
        rows[i + 8] = _mm512_shuffle_f32x4(even_low, even_high, 0xDD);
        rows[i + 12] = _mm512_shuffle_f32x4(odd_low, odd_high, 0xDD);
    }
}

/* A lane for each image: the values of the query need no transposition. */
__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl"))) static void
query_avx512(const float *query, const float *const *images, const float *image_factors, const float *centre,
             int64_t dim, float *products) {
    __m512 sums = _mm512_setzero_ps();
    int64_t k = 0;
    for (; k + 16 <= dim; k += 16) {
        const __m512 middle = _mm512_loadu_ps(centre + k);
        __m512 columns[IMAGES];
#pragma GCC unroll 16
        for (int p = 0; p < IMAGES; p++)
            columns[p] = _mm512_sub_ps(
                _mm512_mul_ps(_mm512_loadu_ps(images[p] + k), _mm512_set1_ps(image_factors[p])), middle);
        transpose16(columns);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++)
            sums = _mm512_fmadd_ps(_mm512_set1_ps(query[k + i]), columns[i], sums);
    }
    _mm512_storeu_ps(products, sums);
    for (; k < dim; k++)
        for (int p = 0; p < IMAGES; p++)
            products[p] = fmaf(query[k], centred(images[p][k], image_factors[p], centre[k]), products[p]);
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

/* 16 registers: 14 sums, one of 8 gallery images, one of a query's value. */
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
    query_kernel of_query; /* or NULL */
} kernels;

/* Returns the kernels of the instruction set `name`, or for NULL the widest of this CPU; the result's name is NULL if the
 * CPU lacks it. On ARM the compiler uses NEON for the portable one. */
static kernels kernels_named(const char *name) {
    kernels found = {NULL, NULL, NULL, NULL, NULL, NULL};
#if defined(__GNUC__) && defined(__x86_64__)
    __builtin_cpu_init();
    if ((!name || !strcmp(name, "avx512")) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return (kernels){"avx512", product_avx512, tally_avx512, distances_avx512, pairs_avx2, query_avx512};
    if ((!name || !strcmp(name, "avx2")) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return (kernels){"avx2", product_avx2, tally_avx2, distances_avx2, pairs_avx2, NULL};
#endif
    if (!name || !strcmp(name, "portable"))
        return (kernels){"portable", product_portable, tally_portable, distances_portable, pairs_portable, NULL};
    return found;
}

#endif
