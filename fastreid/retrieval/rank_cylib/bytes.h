/* Products of numbers that are rounded to bytes, twice as fast as those of bfloat16, and less exact.
 *
 * Four bytes are stored in one float, as coarse.h stores two numbers. All rows have the same scale.
 */
#ifndef FASTREID_BYTES_H
#define FASTREID_BYTES_H

#include "coarse.h"

/* Scales, centres and rounds `count` numbers, at most LANES, to whole multiples of a unit, -127 … 127; adds as
 * `round_some_to_pairs`. */
static inline void round_some_to_bytes(const float *row, float factor, const float *centre, float unit, int64_t count,
                                       void *to, double *lengths, double *residuals) {
    const float per_unit = 1.0f / unit;
    uint8_t *rounded = to;
    const float whole = 12582912.0f; /* 1.5 * 2^23: a sum has no fraction, and its last bits are the whole number */
    float values[LANES] = {0}, sums[LANES];
    uint32_t bits[LANES];
    for (int64_t i = 0; i < count; i++)
        values[i] = centred(row[i], factor, centre[i]);
    for (int i = 0; i < LANES; i++) {
        const float units = values[i] * per_unit;
        sums[i] = (units < -127.0f ? -127.0f : units > 127.0f ? 127.0f : units) + whole;
    }
    memcpy(bits, sums, sizeof bits);
    for (int64_t i = 0; i < count; i++)
        rounded[i] = (uint8_t)bits[i];
    for (int i = 0; i < LANES; i++) {
        const double lost = (double)values[i] - (double)(sums[i] - whole) * unit;
        lengths[i] += (double)values[i] * values[i];
        residuals[i] += lost * lost;
    }
}

DEFINE_ROUND_ROW(round_to_bytes_portable, round_some_to_bytes, 1)
#if defined(__GNUC__) && defined(__x86_64__)
__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl")))
DEFINE_ROUND_ROW(round_to_bytes_avx512, round_some_to_bytes, 1)
#endif

/* Scales, centres and rounds rows [count x dim] to bytes, or with a unit of 0 to pairs of bfloat16; rows are filled up with
 * zeros to whole floats. Also computes the length of each row and of its rounding residual. */
static void round_rows(const float *features, const float *factors, const float *centre, float unit, int64_t count,
                       int64_t dim, uint8_t *rounded, double *lengths, double *residuals, int num_threads) {
    const int64_t length = unit > 0 ? dim : 2 * dim, width = (length + 3) / 4 * 4;
    row_rounder round_row = unit > 0 ? round_to_bytes_portable : round_to_pairs_portable;
#if defined(__GNUC__) && defined(__x86_64__)
    if (!strcmp(kernels_named(NULL).name, "avx512"))
        round_row = unit > 0 ? round_to_bytes_avx512 : round_to_pairs_avx512;
#endif
#pragma omp parallel for schedule(static) num_threads(num_threads)
    for (int64_t r = 0; r < count; r++) {
        double squares[2];
        memset(rounded + r * width + length, 0, (size_t)(width - length));
        round_row(features + r * dim, factors[r], centre, unit, dim, rounded + r * width, squares);
        lengths[r] = sqrt(squares[0]);
        residuals[r] = sqrt(squares[1]);
    }
}

#ifdef HAS_COARSE
/* Adds the products of four bytes without a sign and four with one to each sum. GCC keeps the sums of its intrinsic
 * function in memory, and so it is twice as slow. */
#define ADD_BYTES(sums, gallery, query) __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(gallery), "v"(query))

/* 128 is added to the bytes of the gallery, which have no sign then, and 128 times the sum of the query's bytes is taken
 * off. Sums are exact: rows are short enough for 32 bits. */
__attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni"))) static void
product_bytes(const float *queries, const float *gallery, int64_t dim, float *products, int64_t stride) {
    const __m512i shift = _mm512_set1_epi8((char)-128);
    const float *from = queries;
    __m512i too_much = _mm512_setzero_si512(), sums[QUERY_PANEL][2];
    int32_t of_shift[16];
#pragma GCC unroll 14
    for (int q = 0; q < QUERY_PANEL; q++)
        sums[q][0] = sums[q][1] = _mm512_setzero_si512();
    for (int64_t k = 0; k < dim; k++) {
        const __m512i low = _mm512_loadu_si512(gallery), high = _mm512_loadu_si512(gallery + 16);
#pragma GCC unroll 14
        for (int q = 0; q < QUERY_PANEL; q++) {
            int32_t four;
            memcpy(&four, queries + q, sizeof four);
            const __m512i value = _mm512_set1_epi32(four);
            ADD_BYTES(sums[q][0], low, value);
            ADD_BYTES(sums[q][1], high, value);
        }
        queries += QUERY_PANEL;
        gallery += GALLERY_PANEL;
    }
    for (int64_t k = 0; k < dim; k++, from += QUERY_PANEL)
        ADD_BYTES(too_much, shift, _mm512_maskz_loadu_epi32(0x3FFF, from));
    _mm512_storeu_si512(of_shift, too_much);
#pragma GCC unroll 14
    for (int q = 0; q < QUERY_PANEL; q++) {
        const __m512i off = _mm512_set1_epi32(of_shift[q]);
        _mm512_storeu_ps(products + q * stride, _mm512_cvtepi32_ps(_mm512_sub_epi32(sums[q][0], off)));
        _mm512_storeu_ps(products + q * stride + 16, _mm512_cvtepi32_ps(_mm512_sub_epi32(sums[q][1], off)));
    }
}
#endif

/* Makes `job` use rows of bytes or of pairs; returns 0 if the CPU or the compiler lacks the instruction. */
static int make_coarse(work *job, int of_bytes) {
#ifdef HAS_COARSE
    if (strcmp(job->with.name, "avx512"))
        return 0;
    if (of_bytes && __builtin_cpu_supports("avx512vnni")) {
        job->with.product = product_bytes;
        job->gallery_flip = 0x80808080u; /* adds 128 */
        return 1;
    }
    if (!of_bytes && __builtin_cpu_supports("avx512bf16")) {
        job->with.product = product_coarse;
        return 1;
    }
#endif
    (void)job;
    (void)of_bytes;
    return 0;
}

#endif
