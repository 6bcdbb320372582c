/* SPDX-License-Identifier: MIT */
/* across_ref: one small function per formula, in f64, entry after entry; part of the reference
 * library. */
#include "workers/across/ref.h"
#include "proto/err.h"
#include "workers/rows/pairs.h"
#include "workers/rows/row.h"

#include <math.h>
#include <string.h>

/* Weighted maps. */

static bool takes_part(double weight)
{
    return weight > 0 || weight < 0;
}

/* Adds w x to entries of the map. */
static void across_ref_add_head(double *map, double weight, const double *x, uint32_t n)
{
    for (uint32_t j = 0; j < n; j++) {
        map[j] += weight * x[j];
    }
}

static const unsigned char *across_ref_row_at(const struct attention *a, uint32_t b, uint32_t h,
                                              uint32_t i)
{
    size_t row = ((size_t)b * a->heads + h) * a->queries + i;
    const unsigned char *p = a->weights;
    return p + row * a->keys * dtype_size(a->dtype);
}

uint32_t across_map_sources(const struct attention *a, const double *weight, uint32_t b, uint32_t i,
                            const unsigned char **ret_source, double *ret_weight)
{
    uint32_t count = 0;
    for (uint32_t h = 0; h < a->heads; h++) {
        if (takes_part(weight[h])) {
            ret_source[count] = across_ref_row_at(a, b, h, i);
            ret_weight[count++] = weight[h];
        }
    }
    return count;
}

void across_map_entries_ref(struct moments *map, const unsigned char *const *source,
                            const double *weight, uint32_t heads, enum dtype dtype, uint32_t n,
                            double *work)
{
    double *x = work, *entry = work + n;
    memset(entry, 0, n * sizeof *entry);
    for (uint32_t h = 0; h < heads; h++) {
        attention_load(source[h], dtype, 0, n, x);
        across_ref_add_head(entry, weight[h], x, n);
    }
    /* Moves the finite entries to the front; returns how many. */
    uint32_t kept = 0;
    for (uint32_t j = 0; j < n; j++) {
        entry[kept] = entry[j];
        kept += isfinite(entry[kept]) != 0;
    }
    row_merge_moments(map, entry, kept);
}

/* The memory of a weighted map. */
struct map_work {
    const struct attention *a;
    double *entries;              /* [2 * keys] */
    double *weight;               /* [heads] */
    const unsigned char **source; /* [heads] */
};

static void map_work_lay(void *data, struct scratch_pieces *m)
{
    struct map_work *w = data;
    w->entries = scratch_carve(m, 2 * (uint64_t)w->a->keys, sizeof *w->entries);
    w->weight = scratch_carve(m, w->a->heads, sizeof *w->weight);
    w->source = scratch_carve(m, w->a->heads, sizeof *w->source);
}

int across_weighted_map_ref(struct moments *map, const struct attention *a, const double *weight,
                            uint32_t row_begin, uint32_t row_end, struct scratch *scratch)
{
    struct map_work w = {.a = a};
    int rc = scratch_take_pieces(scratch, map_work_lay, &w);
    for (uint32_t i = row_begin; rc == 0 && i < row_end; i++) {
        for (uint32_t b = 0; b < a->batch; b++) {
            scratch_pause(scratch);
            uint32_t heads = across_map_sources(a, weight, b, i, w.source, w.weight);
            if (heads > 0) {
                across_map_entries_ref(map, w.source, w.weight, heads, a->dtype, a->keys,
                                       w.entries);
            }
        }
    }
    return rc;
}

/* Gradient. */

struct attention across_grad(const struct attention *a)
{
    struct attention grad = *a;
    grad.weights = a->grad;
    grad.dtype = a->grad_dtype;
    return grad;
}

double across_gradient_row_ref(const struct attention *a, uint32_t b, uint32_t h, uint32_t i,
                               const uint32_t *key, uint32_t n, double *work)
{
    double *sent = work, *weight = work + a->keys, *grad = work + 2 * (size_t)a->keys;
    attention_load_row(a, b, h, i, sent);
    row_gather(sent, key, n, weight);
    struct row r = {.position = attention_position(a, i), .n = n, .key = key, .weight = weight};
    if (!row_sound(a, &r, row_sum(&r))) {
        return 0;
    }
    struct attention as_weights = across_grad(a);
    attention_load_row(&as_weights, b, h, i, sent);
    row_gather(sent, key, n, grad);
    /* sum |A G|, products that are not finite left out. */
    double sum = 0;
    for (uint32_t k = 0; k < n; k++) {
        double product = fabs(weight[k] * grad[k]);
        sum += isfinite(product) ? product : 0;
    }
    return sum;
}

/* Largest entries of each head. */

/* Adds the finite entries of a row to the sums over samples. */
static void across_ref_add_finite(double *sum, double *samples, const double *sent, uint32_t keys)
{
    for (uint32_t j = 0; j < keys; j++) {
        if (isfinite(sent[j])) {
            sum[j] += sent[j];
            samples[j] += 1;
        }
    }
}

uint32_t across_head_row_ref(struct pair *pairs, uint32_t count, uint32_t limit,
                             const struct attention *a, const struct attention_extent *extent,
                             uint32_t h, uint32_t i, double *work)
{
    double *sent = work, *sum = work + a->keys, *samples = work + 2 * (size_t)a->keys;
    memset(sum, 0, 2 * (size_t)a->keys * sizeof *sum);
    for (uint32_t b = 0; b < a->batch; b++) {
        uint32_t key = extent[b].key;
        if (attention_shown(a, &extent[b], b, i)) {
            attention_load_row(a, b, h, i, sent);
            across_ref_add_finite(sum + key, samples + key, sent + key, extent[b].key_end - key);
        }
    }
    for (uint32_t j = 0; j < a->keys; j++) {
        double weight = sum[j] / samples[j];
        if (isfinite(weight)) {
            struct pair pair = {.query = i, .key = j, .weight = weight};
            count = pairs_offer(pairs, count, limit, pair);
        }
    }
    return count;
}
