/* Products of numbers that are rounded to bfloat16, twice as fast, to find the few pairs that need an exact product.
 *
 * Two rounded numbers are stored in one float, so that kernels.h packs and compares rows of half the length.
 */
#ifndef FASTREID_COARSE_H
#define FASTREID_COARSE_H

#include "kernels.h"

/* Scales, centres and rounds `count` numbers, at most LANES; adds their squares, and those of what rounding took off, to
 * LANES sums each. Simple loops, which compilers vectorize. */
enum { LANES = 16 };
static inline void round_some_to_pairs(const float *row, float factor, const float *centre, float unit, int64_t count,
                                       void *to, double *lengths, double *residuals) {
    float values[LANES] = {0}, kept[LANES];
    uint16_t *rounded = to;
    uint32_t bits[LANES];
    (void)unit;
    for (int64_t i = 0; i < count; i++)
        values[i] = centred(row[i], factor, centre[i]);
    memcpy(bits, values, sizeof bits);
    for (int i = 0; i < LANES; i++)
        bits[i] = (bits[i] + 0x7FFFu + (bits[i] >> 16 & 1)) >> 16; /* to nearest, ties to even; far from overflow */
    for (int64_t i = 0; i < count; i++)
        rounded[i] = (uint16_t)bits[i];
    for (int i = 0; i < LANES; i++)
        bits[i] <<= 16;
    memcpy(kept, bits, sizeof kept);
    for (int i = 0; i < LANES; i++) {
        lengths[i] += (double)values[i] * values[i];
        residuals[i] += ((double)values[i] - kept[i]) * ((double)values[i] - kept[i]);
    }
}

/* Rounds a row to numbers of `size` bytes, LANES at a time by `some`; `squares` receives the squared length of the row and
 * that of its rounding residual. */
typedef void (*row_rounder)(const float *row, float factor, const float *centre, float unit, int64_t dim, uint8_t *rounded,
                            double *squares);
#define DEFINE_ROUND_ROW(name, some, size)                                                                             \
    static void name(const float *row, float factor, const float *centre, float unit, int64_t dim, uint8_t *rounded,   \
                     double *squares) {                                                                                \
        double lengths[LANES] = {0}, residuals[LANES] = {0};                                                           \
        int64_t k = 0;                                                                                                 \
        for (; k + LANES <= dim; k += LANES)                                                                           \
            some(row + k, factor, centre + k, unit, LANES, rounded + size * k, lengths, residuals);                    \
        some(row + k, factor, centre + k, unit, dim - k, rounded + size * k, lengths, residuals);                      \
        squares[0] = squares[1] = 0;                                                                                   \
        for (int lane = 0; lane < LANES; lane++) {                                                                     \
            squares[0] += lengths[lane];                                                                               \
            squares[1] += residuals[lane];                                                                             \
        }                                                                                                              \
    }
DEFINE_ROUND_ROW(round_to_pairs_portable, round_some_to_pairs, 2)
#if defined(__GNUC__) && defined(__x86_64__)
__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl")))
DEFINE_ROUND_ROW(round_to_pairs_avx512, round_some_to_pairs, 2)
#endif

/* Older compilers lack the instruction and the test for it. */
#if defined(__x86_64__) && ((defined(__clang__) && __clang_major__ >= 17) || (!defined(__clang__) && __GNUC__ >= 10))
#define HAS_COARSE 1
__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"))) static void
product_coarse(const float *queries, const float *gallery, int64_t dim, float *products, int64_t stride) {
    __m512 sums[QUERY_PANEL][2];
    for (int q = 0; q < QUERY_PANEL; q++)
        sums[q][0] = sums[q][1] = _mm512_setzero_ps();
    for (int64_t k = 0; k < dim; k++) {
        const __m512bh low = (__m512bh)_mm512_loadu_ps(gallery), high = (__m512bh)_mm512_loadu_ps(gallery + 16);
#pragma GCC unroll 14
        for (int q = 0; q < QUERY_PANEL; q++) {
            int32_t both;
            memcpy(&both, queries + q, sizeof both);
            const __m512bh value = (__m512bh)_mm512_set1_epi32(both);
            sums[q][0] = _mm512_dpbf16_ps(sums[q][0], value, low);
            sums[q][1] = _mm512_dpbf16_ps(sums[q][1], value, high);
        }
        queries += QUERY_PANEL;
        gallery += GALLERY_PANEL;
    }
    for (int q = 0; q < QUERY_PANEL; q++) {
        _mm512_storeu_ps(products + q * stride, sums[q][0]);
        _mm512_storeu_ps(products + q * stride + 16, sums[q][1]);
    }
}
#endif

enum { PRODUCT_CHUNK = 512 };

/* Gives a consumer the distances of products in bfloat16, [num_queries x num_images], of queries first_query … and images
 * first_image …, whose offsets are those of `job`. */
static void take_products(const work *job, const uint16_t *products, int64_t first_query, int64_t num_queries,
                          int64_t first_image, int64_t num_images, row_consumer take, void *context, int num_threads) {
#pragma omp parallel for schedule(dynamic, 16) num_threads(num_threads)
    for (int64_t q = 0; q < num_queries; q++) {
        float row[PRODUCT_CHUNK];
        for (int64_t first = 0; first < num_images; first += PRODUCT_CHUNK) {
            const int64_t count = num_images - first < PRODUCT_CHUNK ? num_images - first : PRODUCT_CHUNK;
            for (int64_t i = 0; i < count; i++) {
                const uint32_t wide = (uint32_t)products[q * num_images + first + i] << 16;
                memcpy(row + i, &wide, sizeof wide);
            }
            job->with.distances(row, count, job->query_offsets[first_query + q],
                                job->gallery_offsets + first_image + first, job->slope, job->lowest);
            take(context, this_thread(), first_query + q, first_image + first, row, count);
        }
    }
}

#endif
