/* Lists of the nearest images of every image; row consumers for kernels.h.
 *
 * A list holds the least (distance, index) pairs so far, equal distances by lower index. The final list does not depend on
 * the order of the pairs, so it is the same for any number of threads and chunk size.
 */
#ifndef FASTREID_NEIGHBORS_H
#define FASTREID_NEIGHBORS_H

#include "kernels.h"

/* Lists of the `k` least keys: a key has the bits of a distance, mapped to an ordered integer, then the index. A list takes
 * `room` keys in any order before all but the least are dropped, which costs less than to keep them in order. */
typedef struct {
    uint64_t *keys;  /* [n x room] */
    int64_t *counts; /* [n] keys in each list */
    float *reach;    /* [n] distance of the k-th key when others were dropped, at first infinite: a cheap first test */
    uint8_t *locks;  /* [n] */
    int64_t k, room;
} key_lists;

typedef struct {
    key_lists near;
    key_lists far;      /* of negated distances; k is 0 if not asked for */
    float *farthest;    /* [num_threads x n] greatest distance so far, or NULL */
    int64_t n;
    int each_pair_once; /* then each distance is offered to the query's and the image's list */
} neighbor_lists;

static uint64_t neighbor_key(float distance, int64_t index) {
    uint32_t bits;
    distance += 0.0f; /* no minus zero */
    memcpy(&bits, &distance, sizeof bits);
    bits ^= bits >> 31 ? 0xFFFFFFFFu : 0x80000000u;
    return (uint64_t)bits << 32 | (uint32_t)index;
}

static float key_distance(uint64_t key) {
    uint32_t bits = (uint32_t)(key >> 32);
    float distance;
    bits ^= bits >> 31 ? 0x80000000u : 0xFFFFFFFFu;
    memcpy(&distance, &bits, sizeof distance);
    return distance;
}

/* Moves the k least of `count` keys to the front, in any order, and returns the greatest of them; 0 < k <= count. */
static uint64_t keep_least(uint64_t *keys, int64_t count, int64_t k) {
    for (int64_t low = 0, high = count - 1; low < high;) {
        const uint64_t a = keys[low], b = keys[low + (high - low) / 2], c = keys[high];
        const uint64_t middle = a < b ? (b < c ? b : a < c ? c : a) : (a < c ? a : b < c ? c : b);
        int64_t i = low, j = high;
        while (i <= j) {
            while (keys[i] < middle)
                i++;
            while (keys[j] > middle)
                j--;
            if (i <= j) {
                const uint64_t key = keys[i];
                keys[i++] = keys[j];
                keys[j--] = key;
            }
        }
        if (k - 1 <= j)
            high = j;
        else if (k - 1 >= i)
            low = i;
        else
            break;
    }
    return keys[k - 1];
}

static void offer(key_lists *lists, int64_t list, uint64_t key) {
    uint64_t *keys = lists->keys + list * lists->room;
#ifdef _OPENMP
    while (__atomic_test_and_set(lists->locks + list, __ATOMIC_ACQUIRE))
        ;
#endif
    keys[lists->counts[list]++] = key;
    if (lists->counts[list] == lists->room) {
        lists->counts[list] = lists->k;
        /* Read elsewhere without the lock: an old, greater value only admits a key that is dropped later. */
        lists->reach[list] = key_distance(keep_least(keys, lists->room, lists->k));
    }
#ifdef _OPENMP
    __atomic_clear(lists->locks + list, __ATOMIC_RELEASE);
#endif
}

/* Offers a row of distances, times `sign`, to the list of the query and, if `both`, to those of the images. */
#define DEFINE_NEAR_ROW(name, scan)                                                                                    \
    static inline void scan(key_lists *lists, float sign, int both, int64_t query, int64_t first, const float *row,    \
                            int64_t begin, int64_t count) {                                                            \
        const float *reach = lists->reach + first;                                                                     \
        for (int64_t i = begin; i < count; i += 32) {                                                                  \
            const int64_t end = i + 32 < count ? i + 32 : count;                                                       \
            const float own = lists->reach[query];                                                                     \
            int is_near = 0;                                                                                           \
            if (both)                                                                                                  \
                for (int64_t j = i; j < end; j++)                                                                      \
                    is_near |= (sign * row[j] <= own) | (sign * row[j] <= reach[j]);                                   \
            else                                                                                                       \
                for (int64_t j = i; j < end; j++)                                                                      \
                    is_near |= sign * row[j] <= own;                                                                   \
            for (int64_t j = i; is_near && j < end; j++) {                                                             \
                if (sign * row[j] <= lists->reach[query])                                                              \
                    offer(lists, query, neighbor_key(sign * row[j], first + j));                                       \
                if (both && first + j != query && sign * row[j] <= reach[j])                                           \
                    offer(lists, first + j, neighbor_key(sign * row[j], query));                                       \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    static void name(void *context, int thread, int64_t query, int64_t first, const float *row, int64_t count) {       \
        neighbor_lists *lists = context;                                                                               \
        const int both = lists->each_pair_once;                                                                        \
        const int64_t begin = both && query > first ? query - first : 0;                                               \
        if (lists->farthest) {                                                                                         \
            float *farthest = lists->farthest + thread * lists->n, most = farthest[query];                             \
            for (int64_t j = begin; j < count; j++)                                                                    \
                most = row[j] > most ? row[j] : most;                                                                  \
            farthest[query] = most;                                                                                    \
            for (int64_t j = begin; both && j < count; j++)                                                            \
                farthest[first + j] = row[j] > farthest[first + j] ? row[j] : farthest[first + j];                     \
        }                                                                                                              \
        scan(&lists->near, 1.0f, both, query, first, row, begin, count);                                               \
        if (lists->far.k)                                                                                              \
            scan(&lists->far, -1.0f, both, query, first, row, begin, count);                                           \
    }
DEFINE_NEAR_ROW(near_row_portable, scan_portable)
#if defined(__GNUC__) && defined(__x86_64__)
__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl"))) DEFINE_NEAR_ROW(near_row_avx512, scan_avx512)
__attribute__((target("avx2,fma"))) DEFINE_NEAR_ROW(near_row_avx2, scan_avx2)
#endif

static row_consumer near_row_for(const char *instructions) {
#if defined(__GNUC__) && defined(__x86_64__)
    if (!strcmp(instructions, "avx512"))
        return near_row_avx512;
    if (!strcmp(instructions, "avx2"))
        return near_row_avx2;
#endif
    (void)instructions;
    return near_row_portable;
}

static int compare_keys(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Sorts the lists of n images, least first. */
static void read_lists(key_lists *lists, int64_t n, int32_t *indices, float *distances, int num_threads) {
#pragma omp parallel for schedule(static) num_threads(num_threads)
    for (int64_t list = 0; list < n; list++) {
        uint64_t *keys = lists->keys + list * lists->room;
        if (lists->counts[list] > lists->k)
            keep_least(keys, lists->counts[list], lists->k);
        for (int64_t j = lists->counts[list]; j < lists->k; j++)
            keys[j] = UINT64_MAX;
        qsort(keys, (size_t)lists->k, sizeof *keys, compare_keys);
        for (int64_t j = 0; j < lists->k; j++) {
            indices[list * lists->k + j] = (int32_t)(uint32_t)keys[j];
            distances[list * lists->k + j] = key_distance(keys[j]);
        }
    }
}

static inline float sum_of_lanes(float *sums) {
    for (int half = 8; half; half /= 2)
        for (int lane = 0; lane < half; lane++)
            sums[lane] += sums[lane + half];
    return sums[0];
}

/* Product of two rows, minus a centre, in sixteen partial sums: the same order everywhere, which every compiler can
 * vectorize. */
#define DEFINE_ROW_PRODUCT(name)                                                                                       \
    static float name(const float *a, const float *b, const float *centre, int64_t dim) {                              \
        float sums[16] = {0};                                                                                          \
        int64_t k = 0;                                                                                                 \
        for (; k + 16 <= dim; k += 16)                                                                                 \
            for (int lane = 0; lane < 16; lane++)                                                                      \
                sums[lane] = fmaf(a[k + lane] - centre[k + lane], b[k + lane] - centre[k + lane], sums[lane]);         \
        for (; k < dim; k++)                                                                                           \
            sums[k % 16] = fmaf(a[k] - centre[k], b[k] - centre[k], sums[k % 16]);                                     \
        return sum_of_lanes(sums);                                                                                     \
    }
DEFINE_ROW_PRODUCT(row_product_portable)
#if defined(__GNUC__) && defined(__x86_64__)
__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl"))) DEFINE_ROW_PRODUCT(row_product_avx512)
__attribute__((target("avx2,fma"))) DEFINE_ROW_PRODUCT(row_product_avx2)
#endif

static void row_products(const float *features, const float *centre, int64_t dim, const int32_t *left,
                         const int32_t *right, int64_t num_pairs, float *out, int num_threads) {
    float (*product)(const float *, const float *, const float *, int64_t) = row_product_portable;
#if defined(__GNUC__) && defined(__x86_64__)
    const char *name = kernels_named(NULL).name;
    product = !strcmp(name, "avx512") ? row_product_avx512 : !strcmp(name, "avx2") ? row_product_avx2 : product;
#endif
#pragma omp parallel for schedule(static) num_threads(num_threads)
    for (int64_t pair = 0; pair < num_pairs; pair++)
        out[pair] = product(features + left[pair] * dim, features + right[pair] * dim, centre, dim);
}

/* Rows whose products with as many others are computed together: 16 registers of sums, and 8 of values. The rows of a list
 * are read PART numbers at a time, which stay in the first cache for all pairs. */
enum { TILE = 4, PART = 256 };

/* Adds the products of the numbers first … last - 1 of all pairs of TILE rows and TILE others to sums [TILE x TILE x 16];
 * after all parts, the sixteen sums of a pair are those of `row_products` without a centre. */
typedef void (*tile_kernel)(const float *const *rows, const float *const *others, int64_t first, int64_t last,
                            float *sums);

#define DEFINE_TILE(name)                                                                                              \
    static void name(const float *const *rows, const float *const *others, int64_t first, int64_t last, float *to) {   \
        for (int pair = 0; pair < TILE * TILE; pair++, to += 16) {                                                     \
            const float *a = rows[pair / TILE], *b = others[pair % TILE];                                              \
            float sums[16];                                                                                            \
            int64_t k = first;                                                                                         \
            memcpy(sums, to, sizeof sums);                                                                             \
            for (; k + 16 <= last; k += 16)                                                                            \
                for (int lane = 0; lane < 16; lane++)                                                                  \
                    sums[lane] = fmaf(a[k + lane], b[k + lane], sums[lane]);                                           \
            for (; k < last; k++)                                                                                      \
                sums[k % 16] = fmaf(a[k], b[k], sums[k % 16]);                                                         \
            memcpy(to, sums, sizeof sums);                                                                             \
        }                                                                                                              \
    }
DEFINE_TILE(tile_portable)
#if defined(__GNUC__) && defined(__x86_64__)
__attribute__((target("avx2,fma"))) DEFINE_TILE(tile_avx2)

__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl"))) static void
tile_avx512(const float *const *rows, const float *const *others, int64_t first, int64_t last, float *to) {
    __m512 sums[TILE][TILE];
#pragma GCC unroll 16
    for (int pair = 0; pair < TILE * TILE; pair++)
        sums[pair / TILE][pair % TILE] = _mm512_loadu_ps(to + 16 * pair);
    for (int64_t k = first; k < last; k += 16) {
        const __mmask16 mask = last - k < 16 ? (__mmask16)((1u << (last - k)) - 1) : 0xFFFF; /* beyond the end: zero */
        __m512 values[TILE];
#pragma GCC unroll 4
        for (int j = 0; j < TILE; j++)
            values[j] = _mm512_maskz_loadu_ps(mask, others[j] + k);
#pragma GCC unroll 4
        for (int i = 0; i < TILE; i++) {
            const __m512 value = _mm512_maskz_loadu_ps(mask, rows[i] + k);
#pragma GCC unroll 4
            for (int j = 0; j < TILE; j++)
                sums[i][j] = _mm512_fmadd_ps(value, values[j], sums[i][j]);
        }
    }
#pragma GCC unroll 16
    for (int pair = 0; pair < TILE * TILE; pair++)
        _mm512_storeu_ps(to + 16 * pair, sums[pair / TILE][pair % TILE]);
}
#endif

static tile_kernel best_tile(void) {
#if defined(__GNUC__) && defined(__x86_64__)
    const char *name = kernels_named(NULL).name;
    return !strcmp(name, "avx512") ? tile_avx512 : !strcmp(name, "avx2") ? tile_avx2 : tile_portable;
#else
    return tile_portable;
#endif
}

/* Adds up the products of all pairs of the `length` rows of one list: `sums` has a tile for each pair of four rows. */
static void sum_products(tile_kernel tile, const float *features, int64_t dim, const int32_t *members, int64_t length,
                         float *sums) {
    for (int64_t part = 0; part < dim; part += PART) {
        float *to = sums;
        for (int64_t first = 0; first < length; first += TILE)
            for (int64_t second = first; second < length; second += TILE, to += TILE * TILE * 16) {
                const float *rows[TILE], *others[TILE];
                for (int64_t i = 0; i < TILE; i++) { /* beyond the end: repeat the last */
                    rows[i] = features + members[first + i < length ? first + i : length - 1] * dim;
                    others[i] = features + members[second + i < length ? second + i : length - 1] * dim;
                }
                tile(rows, others, part, dim - part < PART ? dim : part + PART, to);
            }
    }
}

/* Computes the products of all pairs of the `length` rows of each list: the upper triangles, row by row. Returns 0, or 1
 * if memory ran out. */
static int list_products(const float *features, int64_t dim, const int32_t *lists, int64_t num_lists, int64_t length,
                         float *out, int num_threads) {
    const int64_t num_pairs = length * (length - 1) / 2, tiles = (length + TILE - 1) / TILE;
    const size_t room = (size_t)(tiles * (tiles + 1) / 2) * TILE * TILE * 16 * sizeof(float);
    const tile_kernel tile = best_tile();
    int failed = 0;
#pragma omp parallel num_threads(num_threads)
    {
        float *sums = malloc(room);
        if (!sums) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (int64_t list = 0; list < num_lists; list++) {
            if (!sums)
                continue;
            memset(sums, 0, room);
            sum_products(tile, features, dim, lists + list * length, length, sums);
            float *from = sums;
            for (int64_t first = 0; first < length; first += TILE)
                for (int64_t second = first; second < length; second += TILE, from += TILE * TILE * 16)
                    for (int64_t i = first; i < first + TILE && i < length; i++)
                        for (int64_t j = second > i ? second : i + 1; j < second + TILE && j < length; j++)
                            out[list * num_pairs + i * (2 * length - i - 1) / 2 + j - i - 1] =
                                sum_of_lanes(from + 16 * ((i - first) * TILE + j - second));
        }
        free(sums);
    }
    return failed;
}

/* Computes Jaccard distances 1 - s / (2 - s) between rows first … last - 1 of one sparse matrix (by rows) and all rows of
 * another (by columns); s is the sum over columns of the lesser of two rows' weights, which sum to one in each row.
 * Distances up to `max_distance` are written, columns ascending, from bounds[row - first] on, where all of a row fit.
 * Returns 0, or 1 if memory ran out. */
typedef struct {
    const int64_t *starts; /* [rows or columns + 1] */
    const int32_t *indices;
    const float *weights;
} sparse;

static int lowest_bit(uint64_t word) {
#ifdef __GNUC__
    return __builtin_ctzll(word);
#else
    int bit = 0;
    while (!(word >> bit & 1))
        bit++;
    return bit;
#endif
}

static int jaccard_rows(sparse rows, sparse columns, int64_t num_others, int64_t first, int64_t last, float max_distance,
                        const int64_t *bounds, int32_t *indices, float *distances, int64_t *counts, int num_threads) {
    const int64_t words = (num_others + 63) / 64;
    int failed = 0;
#pragma omp parallel num_threads(num_threads)
    {
        float *shared = calloc((size_t)num_others + 1, sizeof *shared);
        uint64_t *touched = calloc((size_t)words + 1, sizeof *touched);
        if (!shared || !touched) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 64)
        for (int64_t row = first; row < last; row++) {
            if (!shared || !touched)
                continue;
            for (int64_t e = rows.starts[row]; e < rows.starts[row + 1]; e++) {
                const int32_t column = rows.indices[e];
                const float weight = rows.weights[e];
                for (int64_t o = columns.starts[column]; o < columns.starts[column + 1]; o++) {
                    const int32_t other = columns.indices[o];
                    shared[other] += weight < columns.weights[o] ? weight : columns.weights[o];
                    touched[other / 64] |= (uint64_t)1 << other % 64;
                }
            }
            int64_t to = bounds[row - first];
            for (int64_t word = 0; word < words; word++) {
                for (uint64_t left = touched[word]; left; left &= left - 1) {
                    const int64_t other = word * 64 + lowest_bit(left);
                    const float distance = 1.0f - shared[other] / (2.0f - shared[other]);
                    if (distance <= max_distance) {
                        indices[to] = (int32_t)other;
                        distances[to++] = distance < 0.0f ? 0.0f : distance;
                    }
                    shared[other] = 0.0f;
                }
                touched[word] = 0;
            }
            counts[row - first] = to - bounds[row - first];
        }
        free(shared);
        free(touched);
    }
    return failed;
}

#endif
