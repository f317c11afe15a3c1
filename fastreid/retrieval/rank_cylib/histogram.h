/* Counts of distances at most at each of many thresholds, and in each of a few bins; a row consumer for kernels.h.
 *
 * The threshold of a distance is found through one of many equal cells, most of which contain none or one. The cell is a
 * monotonic function of the distance with one rounding, the same for thresholds, so the counts are exact.
 */
#ifndef FASTREID_HISTOGRAM_H
#define FASTREID_HISTOGRAM_H

#include "kernels.h"

typedef struct {
    float low, scale;           /* cell = (distance - low) * scale, cut off at both ends */
    int64_t num_cells;
    int cells_per_bin;          /* as a power of two */
    const float *thresholds;    /* ascending */
    const int32_t *cell_starts; /* [num_cells + 1]: which thresholds lie in a cell */
    int64_t num_bins, num_steps;
    int64_t *bins;              /* [num_threads x num_bins] */
    int64_t *steps;             /* [num_threads x num_steps, thresholds + 1]: above the last threshold, at most at this */
    int64_t *ties;              /* the same: equal to the threshold */
} histogram;

static int32_t cell_of(const histogram *to, float distance) {
    const float place = (distance - to->low) * to->scale;
    return !(place > 0.0f) ? 0 : place >= (float)(to->num_cells - 1) ? (int32_t)(to->num_cells - 1) : (int32_t)place;
}

static void add_distances(const histogram *to, int thread, const float *row, int64_t count, int64_t sign) {
    int64_t *bins = to->bins + thread * to->num_bins, *steps = to->steps + thread * to->num_steps;
    int64_t *ties = to->ties + thread * to->num_steps;
    for (int64_t begin = 0; begin < count; begin += 256) {
        const int64_t end = begin + 256 < count ? begin + 256 : count;
        int32_t cells[256];
        for (int64_t i = begin; i < end; i++)
            cells[i - begin] = cell_of(to, row[i]);
        for (int64_t i = begin; i < end; i++) {
            const int32_t cell = cells[i - begin];
            int32_t low = to->cell_starts[cell], high = to->cell_starts[cell + 1];
            bins[cell >> to->cells_per_bin] += sign;
            while (high - low > 4) {
                const int32_t middle = low + (high - low) / 2;
                if (to->thresholds[middle] < row[i])
                    low = middle + 1;
                else
                    high = middle;
            }
            while (low < high && to->thresholds[low] < row[i])
                low++;
            steps[low] += sign;
            if (low < to->num_steps - 1 && to->thresholds[low] == row[i])
                ties[low] += sign;
        }
    }
}

static void add_row(void *context, int thread, int64_t query, int64_t first, const float *row, int64_t count) {
    (void)query;
    (void)first;
    add_distances(context, thread, row, count, 1);
}

static void add_all(const histogram *to, const float *values, int64_t count, int64_t sign, int num_threads) {
    const int64_t at_once = 1 << 15;
#pragma omp parallel for schedule(static) num_threads(num_threads)
    for (int64_t begin = 0; begin < count; begin += at_once)
        add_distances(to, this_thread(), values + begin, count - begin < at_once ? count - begin : at_once, sign);
}

static void cells_of(const histogram *like, const float *values, int64_t count, int64_t *out) {
    for (int64_t i = 0; i < count; i++)
        out[i] = cell_of(like, values[i]);
}

#endif
