/* Products of numbers that are rounded to bfloat16, twice as fast, to find the few pairs that need an exact product.
 *
 * Two rounded numbers are stored in one float, so that kernels.h packs and compares rows of half the length.
 */
#ifndef FASTREID_COARSE_H
#define FASTREID_COARSE_H

#include "kernels.h"

static uint32_t to_bfloat16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (bits + 0x7FFFu + (bits >> 16 & 1)) >> 16; /* to nearest, ties to even; values are far from overflow */
}

/* Scales, centres and rounds rows [count x dim] to pairs [count x (dim + 1) / 2]; also computes the length of each row and
 * of its rounding residual. */
static void round_rows(const float *features, const float *factors, const float *centre, int64_t count, int64_t dim,
                       float *pairs, double *lengths, double *residuals, int num_threads) {
    const int64_t half = (dim + 1) / 2;
#pragma omp parallel for schedule(static) num_threads(num_threads)
    for (int64_t r = 0; r < count; r++) {
        double length = 0, residual = 0;
        for (int64_t k = 0; k < half; k++) {
            uint32_t both = 0;
            for (int64_t part = 0; part < 2 && 2 * k + part < dim; part++) {
                const int64_t at = 2 * k + part;
                const float value = centred(features[r * dim + at], factors[r], centre[at]);
                const uint32_t rounded = to_bfloat16(value), wide = rounded << 16;
                float back;
                memcpy(&back, &wide, sizeof back);
                length += (double)value * value;
                residual += ((double)value - back) * ((double)value - back);
                both |= rounded << 16 * part;
            }
            memcpy(pairs + r * half + k, &both, sizeof both);
        }
        lengths[r] = sqrt(length);
        residuals[r] = sqrt(residual);
    }
}

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

/* Makes `job` use rounded pairs; returns 0 if the CPU or the compiler lacks the instruction. */
static int make_coarse(work *job) {
#ifdef HAS_COARSE
    if (!strcmp(job->with.name, "avx512") && __builtin_cpu_supports("avx512bf16")) {
        job->with.product = product_coarse;
        return 1;
    }
#endif
    (void)job;
    return 0;
}

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
