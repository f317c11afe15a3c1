/* Distances of all queries to a segment of the gallery, in threads and in chunks that fit the cache; each row of a chunk
 * goes to a function that counts, writes or collects it. */
#ifndef FASTREID_RANK_KERNELS_H
#define FASTREID_RANK_KERNELS_H

#include "products.h"

/* Packs rows of features [rows x dim] side by side into [dim x width], scaled and centred; missing rows are zero. Without
 * a centre (NULL) nothing is subtracted, with the same bits as for zero; without factors rows are copied bit for bit. */
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
            panel[k * width + r] = centred(row[k], factors[rows[r]], centre[k]);
        for (int64_t k = 0; k < dim && factors && !centre; k++)
            panel[k * width + r] = row[k] * factors[rows[r]];
    }
}

/* Squared length of a row, scaled and centred if there are factors. The order of summation is the same for all
 * instruction sets: eight partial sums, then those. */
#define DEFINE_SQUARES(name)                                                                                          \
    static double name(const float *row, const float *factor, const float *centre, int64_t dim) {                    \
        double sums[8] = {0};                                                                                         \
        int64_t k = 0;                                                                                                \
        for (; factor && k + 8 <= dim; k += 8)                                                                        \
            for (int lane = 0; lane < 8; lane++) {                                                                    \
                const double value = centred(row[k + lane], *factor, centre[k + lane]);                                \
                sums[lane] += value * value;                                                                          \
            }                                                                                                         \
        for (; !factor && k + 8 <= dim; k += 8)                                                                       \
            for (int lane = 0; lane < 8; lane++) {                                                                    \
                const double value = row[k + lane];                                                                   \
                sums[lane] += value * value;                                                                          \
            }                                                                                                         \
        for (; k < dim; k++) {                                                                                        \
            const double value = factor ? centred(row[k], *factor, centre[k]) : row[k];                                \
            sums[k % 8] += value * value;                                                                             \
        }                                                                                                             \
        return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));             \
    }
DEFINE_SQUARES(squares_portable)
#if defined(__GNUC__) && defined(__x86_64__)
__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl"))) DEFINE_SQUARES(squares_avx512)
__attribute__((target("avx2,fma"))) DEFINE_SQUARES(squares_avx2)
#endif

static void squares_of_centred(const float *features, const float *factors, const float *centre, int64_t count,
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

/* One comparison of queries and gallery: how distances are computed from products, and the rows. */
typedef struct {
    kernels with;
    int64_t dim;
    float slope, lowest;
    const float *centre;          /* [dim] of all rows that have factors, or NULL for zero */
    const float *queries;         /* [num_queries / QUERY_PANEL, rounded up, x dim x QUERY_PANEL], centred */
    const float *query_offsets;   /* [num_queries] */
    int64_t num_queries;
    const float *gallery;         /* features [… x dim], not centred */
    const float *gallery_factors; /* [rows of gallery], or NULL */
    const float *gallery_offsets; /* [rows of gallery] */
    uint32_t gallery_flip;        /* bits of packed gallery values that are turned over */
} work;

/* Number of gallery images that fit into half of a typical L2 cache; whole panels. */
static int64_t chunk_size(int64_t dim) {
    const int64_t images = (512 << 10) / (int64_t)sizeof(float) / (dim > 0 ? dim : 1) / GALLERY_PANEL * GALLERY_PANEL;
    return images < GALLERY_PANEL ? GALLERY_PANEL : images > 384 ? 384 : images;
}

/* Computes the distances of one query panel to `count` gallery images that are packed in `panels`; rows of tile are
 * `stride` apart. */
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
    if (job->gallery_flip) {
        const int64_t packed = (count + GALLERY_PANEL - 1) / GALLERY_PANEL * GALLERY_PANEL * job->dim;
        for (int64_t i = 0; i < packed; i++) {
            uint32_t bits;
            memcpy(&bits, panels + i, sizeof bits);
            bits ^= job->gallery_flip;
            memcpy(panels + i, &bits, sizeof bits);
        }
    }
    for (int64_t g = 0; g < count; g++)
        offsets[g] = job->gallery_offsets[rows[g]];
}

/* Function that takes the distances of one query to the images at positions first, first + 1, …; called in threads. */
typedef void (*row_consumer)(void *context, int thread, int64_t query, int64_t first, const float *row, int64_t count);

static int this_thread(void) {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

/* Compares all queries with the gallery `rows`, at positions base, base + 1, …, chunk by chunk, in threads. With
 * `each_pair_once` queries and images are the same, and an image is compared only with those up to its own position and a
 * few more in its panel, which `take` must skip. Returns 0, or 1 if memory ran out. */
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
        /* From the last chunk: with `each_pair_once` it has the most queries, and long work is started first. */
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

/* Pairs of rows whose products are computed, and room [dim] for a query that is scaled and centred. */
typedef struct {
    const float *query_features, *query_factors;
    const int64_t *query_of, *image_of;
    float *query;
    int64_t number; /* of the query in `query`, or -1 */
} pairs_of_rows;

/* Returns how many pairs from `first` on, at most IMAGES, are of the same query. */
static int64_t pairs_alike(const int64_t *query_of, int64_t first, int64_t last) {
    int64_t same = 1;
    while (same < IMAGES && first + same < last && query_of[first + same] == query_of[first])
        same++;
    return same;
}

/* Computes the products of `count` pairs of the same query, at most IMAGES. */
static void products_of_query(const work *job, pairs_of_rows *all, int64_t first, int64_t count, float *products) {
    const float *images[IMAGES];
    float factors[IMAGES];
    const int64_t number = all->query_of[first];
    if (all->number != number)
        for (int64_t k = 0; k < job->dim; k++)
            all->query[k] = centred(all->query_features[number * job->dim + k], all->query_factors[number],
                                    job->centre[k]);
    all->number = number;
    for (int64_t p = 0; p < IMAGES; p++) { /* beyond the end: repeat the last pair */
        const int64_t image = all->image_of[first + (p < count ? p : count - 1)];
        images[p] = job->gallery + image * job->dim;
        factors[p] = job->gallery_factors[image];
    }
    job->with.of_query(all->query, images, factors, job->centre, job->dim, products);
}

/* Computes the products of `count` pairs, at most PAIRS. */
static void products_of_pairs(const work *job, const pairs_of_rows *all, int64_t first, int64_t count,
                              float *products) {
    const float *queries[PAIRS], *images[PAIRS];
    float query_factor[PAIRS], image_factor[PAIRS];
    for (int64_t p = 0; p < PAIRS; p++) { /* beyond the end: repeat the last pair */
        const int64_t pair = first + (p < count ? p : count - 1);
        queries[p] = all->query_features + all->query_of[pair] * job->dim;
        images[p] = job->gallery + all->image_of[pair] * job->dim;
        query_factor[p] = all->query_factors[all->query_of[pair]];
        image_factor[p] = job->gallery_factors[all->image_of[pair]];
    }
    job->with.pairs(queries, images, query_factor, image_factor, job->centre, job->dim, products);
}

enum { PAIR_BLOCK = 512 };

/* Computes the distances of pairs first … last - 1. */
static void some_distances(const work *job, pairs_of_rows *all, int64_t first, int64_t last, float *out) {
    float products[IMAGES];
    for (int64_t count; first < last; first += count) {
        const int64_t same = pairs_alike(all->query_of, first, last);
        if (all->query && same > PAIRS / 2) {
            count = same;
            products_of_query(job, all, first, count, products);
        } else {
            count = last - first < PAIRS ? last - first : PAIRS;
            products_of_pairs(job, all, first, count, products);
        }
        for (int64_t p = 0; p < count; p++) {
            const int64_t q = all->query_of[first + p], g = all->image_of[first + p];
            job->with.distances(products + p, 1, job->query_offsets[q], job->gallery_offsets + g, job->slope,
                                job->lowest);
            out[first + p] = products[p];
        }
    }
}

/* Computes the distances of single pairs, with the same bits as those of panels. */
static void pair_distances(const work *job, const float *query_features, const float *query_factors,
                           const int64_t *query_of, const int64_t *image_of, int64_t num_pairs, float *out,
                           int num_threads) {
#pragma omp parallel num_threads(num_threads)
    {
        pairs_of_rows all = {query_features, query_factors, query_of, image_of, NULL, -1};
        if (job->with.of_query) /* without memory for it: other kernels, which give the same bits */
            all.query = malloc(sizeof(float) * (size_t)(job->dim + 1));
#pragma omp for schedule(static)
        for (int64_t first = 0; first < num_pairs; first += PAIR_BLOCK)
            some_distances(job, &all, first, num_pairs - first < PAIR_BLOCK ? num_pairs : first + PAIR_BLOCK, out);
        free(all.query);
    }
}

#endif
