/* Pillow's bicubic resize of RGB bytes with the same bits, followed by a crop, as separate planes.
 *
 * Pillow (Resample.c) computes weighted sums of columns, rounds to bytes, and sums rows, with weights of 22 fractional bits in 32-bit
 * sums. Integer sums do not depend on their order, so SIMD lanes give the same result. For columns, lanes are rows: LANES rows of the
 * image are transposed so that the summands are contiguous, and transposed back. This avoids gathering single pixels.
 */
#ifndef FASTREID_RESIZE_H
#define FASTREID_RESIZE_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__GNUC__) && defined(__x86_64__)
#include <immintrin.h>
#define HAS_X86 1
#endif

enum { CHANNELS = 3, LANES = 32, TILE = 16, FRACTION = 32 - 8 - 2 };
#define HALF (1 << (FRACTION - 1))

/* The weights of `size` outputs: output i sums inputs first[i] … first[i] + count[i] - 1, with weights[i * most …]. */
typedef struct {
    int size, most;
    int *first, *count;
    int32_t *weights;
} weighing;

/* The crop: `height` x `width` pixels from (top, left) of the resized image, black outside of it. */
typedef struct {
    int top, left, height, width, mirrored;
} window;

static double bicubic(double x) { /* a = -0.5, as Pillow */
    x = fabs(x);
    if (x < 1.0) return (1.5 * x - 2.5) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * -0.5;
    return 0.0;
}

static void free_weighing(weighing *to) {
    free(to->first);
    free(to->count);
    free(to->weights);
    memset(to, 0, sizeof *to);
}

/* 0, or -1 without memory. The order of every operation is Pillow's (precompute_coeffs, normalize_coeffs_8bpc). */
static int make_weighing(int in_size, int size, weighing *to) {
    const double scale = (double)in_size / size, filter_scale = scale < 1.0 ? 1.0 : scale, support = 2.0 * filter_scale;
    const double inverse = 1.0 / filter_scale;
    to->size = size;
    to->most = (int)ceil(support) * 2 + 1;
    to->first = malloc(size * sizeof *to->first);
    to->count = malloc(size * sizeof *to->count);
    to->weights = malloc((size_t)size * to->most * sizeof *to->weights);
    double *row = malloc(to->most * sizeof *row);
    if (!row || !to->first || !to->count || !to->weights) {
        free(row);
        free_weighing(to);
        return -1;
    }
    for (int i = 0; i < size; i++) {
        const double centre = (i + 0.5) * scale;
        int first = (int)(centre - support + 0.5), stop = (int)(centre + support + 0.5);
        double sum = 0.0;
        if (first < 0) first = 0;
        if (stop > in_size) stop = in_size;
        for (int t = 0; t < stop - first; t++) {
            row[t] = bicubic((t + first - centre + 0.5) * inverse);
            sum += row[t];
        }
        for (int t = 0; t < stop - first; t++) {
            const double weight = sum != 0.0 ? row[t] / sum : row[t];
            to->weights[(size_t)i * to->most + t] = (int)((weight < 0 ? -0.5 : 0.5) + weight * (1 << FRACTION));
        }
        to->first[i] = first;
        to->count[i] = stop - first;
    }
    free(row);
    return 0;
}

/* out[i] = the byte of sum over t of in[t * stride + i] * weights[t], i = 0 … size - 1. */
typedef void (*weigh_kernel)(const uint8_t *in, int64_t stride, const int32_t *weights, int count, int size, uint8_t *out);

static void weigh_portable(const uint8_t *in, int64_t stride, const int32_t *weights, int count, int size, uint8_t *out) {
    for (int start = 0; start < size; start += LANES) {
        const int some = size - start < LANES ? size - start : LANES;
        int32_t sums[LANES];
        for (int i = 0; i < LANES; i++) sums[i] = HALF;
        for (int t = 0; t < count; t++) {
            const uint8_t *row = in + t * stride + start;
            for (int i = 0; i < some; i++) sums[i] += row[i] * weights[t];
        }
        for (int i = 0; i < some; i++) {
            const int32_t value = sums[i] >> FRACTION;
            out[start + i] = (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
        }
    }
}

#ifdef HAS_X86
__attribute__((target("avx2"))) static void weigh_avx2(const uint8_t *in, int64_t stride, const int32_t *weights, int count,
                                                       int size, uint8_t *out) {
    if (size < LANES) {
        weigh_portable(in, stride, weights, count, size, out);
        return;
    }
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int start = 0; start < size; start += LANES) {
        if (start > size - LANES) start = size - LANES; /* the last group overlaps */
        __m256i sums[4];
        for (int i = 0; i < 4; i++) sums[i] = _mm256_set1_epi32(HALF);
        for (int t = 0; t < count; t++) {
            const __m256i weight = _mm256_set1_epi32(weights[t]);
            for (int i = 0; i < 4; i++) {
                const __m128i bytes = _mm_loadl_epi64((const __m128i *)(in + t * stride + start + 8 * i));
                sums[i] = _mm256_add_epi32(sums[i], _mm256_mullo_epi32(_mm256_cvtepu8_epi32(bytes), weight));
            }
        }
        for (int i = 0; i < 4; i++) sums[i] = _mm256_srai_epi32(sums[i], FRACTION);
        /* Packing saturates at 0 and 255, and changes the order of the groups of 4. */
        const __m256i packed =
            _mm256_packus_epi16(_mm256_packs_epi32(sums[0], sums[1]), _mm256_packs_epi32(sums[2], sums[3]));
        _mm256_storeu_si256((__m256i *)(out + start), _mm256_permutevar8x32_epi32(packed, order));
    }
}
#endif

static weigh_kernel best_weigh(int portably) {
#ifdef HAS_X86
    if (!portably && __builtin_cpu_supports("avx2")) return weigh_avx2;
#endif
    return weigh_portable;
}

/* TILE x TILE bytes: to[j][i] = from[i][j]; rows are `in_stride` and `out_stride` apart. */
static void turn_tile(const uint8_t *from, int64_t in_stride, uint8_t *to, int64_t out_stride) {
#ifdef HAS_X86
    __m128i rows[TILE], next[TILE];
    for (int i = 0; i < TILE; i++) rows[i] = _mm_loadu_si128((const __m128i *)(from + i * in_stride));
    /* Interleaves rows i and i + 8; four times this transposes a 16 x 16 square. */
    for (int step = 0; step < 4; step++) {
        for (int i = 0; i < TILE / 2; i++) {
            next[2 * i] = _mm_unpacklo_epi8(rows[i], rows[i + TILE / 2]);
            next[2 * i + 1] = _mm_unpackhi_epi8(rows[i], rows[i + TILE / 2]);
        }
        memcpy(rows, next, sizeof rows);
    }
    for (int i = 0; i < TILE; i++) _mm_storeu_si128((__m128i *)(to + i * out_stride), rows[i]);
#else
    for (int i = 0; i < TILE; i++)
        for (int j = 0; j < TILE; j++) to[j * out_stride + i] = from[i * in_stride + j];
#endif
}

/* to[j][i] = from[i][j], i < rows, j < columns: in whole tiles where possible; the last ones overlap. */
static void turn(const uint8_t *from, int64_t in_stride, int rows, int columns, uint8_t *to, int64_t out_stride) {
    if (rows < TILE || columns < TILE) {
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < columns; j++) to[j * out_stride + i] = from[i * in_stride + j];
        return;
    }
    for (int i = 0; i < rows; i += TILE) {
        if (i > rows - TILE) i = rows - TILE;
        for (int j = 0; j < columns; j += TILE) {
            if (j > columns - TILE) j = columns - TILE;
            turn_tile(from + i * in_stride + j, in_stride, to + j * out_stride + i, out_stride);
        }
    }
}

/* in [height, W, 3] -> planes [3, height, columns->size], optionally mirrored; returns 0, or -1 without memory. */
static int weigh_columns(const uint8_t *in, int height, int width, const weighing *columns, int mirrored, weigh_kernel weigh,
                         uint8_t *planes) {
    const int64_t pixel = CHANNELS * LANES; /* bytes of one column in LANES rows */
    uint8_t *turned = calloc(width, pixel), *weighed = malloc(columns->size * pixel);
    const int failed = !turned || !weighed;
    for (int y = 0; !failed && y < height; y += LANES) {
        const int some = height - y < LANES ? height - y : LANES;
        turn(in + (int64_t)y * width * CHANNELS, (int64_t)width * CHANNELS, some, width * CHANNELS, turned, LANES);
        for (int x = 0; x < columns->size; x++)
            weigh(turned + columns->first[x] * pixel, pixel, columns->weights + (int64_t)x * columns->most, columns->count[x],
                  (int)pixel, weighed + (mirrored ? columns->size - 1 - x : x) * pixel);
        for (int c = 0; c < CHANNELS; c++)
            turn(weighed + c * LANES, pixel, columns->size, some, planes + ((int64_t)c * height + y) * columns->size,
                 columns->size);
    }
    free(turned);
    free(weighed);
    return failed ? -1 : 0;
}

/* `row` [size] of the resized image -> its part in the crop. */
static void keep(const uint8_t *row, int size, int left, int width, uint8_t *out) {
    int before = left < 0 ? -left : 0, start = left > 0 ? left : 0;
    if (before > width) before = width;
    int count = size - start < width - before ? size - start : width - before;
    if (count < 0) count = 0;
    memset(out, 0, before);
    memcpy(out + before, row + start, count);
    memset(out + before + count, 0, width - before - count);
}

/* in [height, width, 3] -> out [3, kept.height, kept.width]; 0, or -1 without memory. */
static int resize_window(const uint8_t *in, int height, int width, const weighing *columns, const weighing *rows, int rows_first,
                         window kept, int portably, uint8_t *out) {
    const weigh_kernel weigh = best_weigh(portably);
    const int64_t line = (int64_t)width * CHANNELS;
    /* In a mirrored image the crop begins where it ended. */
    const int left = kept.mirrored ? columns->size - kept.left - kept.width : kept.left;
    const int between = rows_first ? rows->size : height;
    uint8_t *lines = malloc(rows_first ? rows->size * line : 1), *row = malloc(columns->size);
    uint8_t *planes = malloc((size_t)CHANNELS * between * columns->size);
    int failed = !lines || !row || !planes;
    if (!failed && rows_first)
        for (int y = 0; y < rows->size; y++)
            weigh(in + rows->first[y] * line, line, rows->weights + (int64_t)y * rows->most, rows->count[y], (int)line,
                  lines + y * line);
    if (!failed) failed = weigh_columns(rows_first ? lines : in, between, width, columns, kept.mirrored, weigh, planes);
    for (int c = 0; !failed && c < CHANNELS; c++)
        for (int y = 0; y < kept.height; y++) {
            const int from = y + kept.top;
            uint8_t *to = out + ((int64_t)c * kept.height + y) * kept.width;
            const uint8_t *plane = planes + (int64_t)c * between * columns->size;
            if (from < 0 || from >= rows->size) {
                memset(to, 0, kept.width);
            } else if (rows_first) {
                keep(plane + (int64_t)from * columns->size, columns->size, left, kept.width, to);
            } else {
                weigh(plane + (int64_t)rows->first[from] * columns->size, columns->size,
                      rows->weights + (int64_t)from * rows->most, rows->count[from], columns->size, row);
                keep(row, columns->size, left, kept.width, to);
            }
        }
    free(lines);
    free(row);
    free(planes);
    return failed ? -1 : 0;
}
#endif
