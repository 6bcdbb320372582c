/* SPDX-License-Identifier: MIT */
/* block_ref: the scalar reference. One small function per formula of KERNELS.md (those of the row
 * metrics are in row_metrics.c), in f64, one entry after the other; compiled without vectorising.
 * It is what every faster path is compared with, so it is written to be checked against the
 * formulas by eye.
 *
 * Order: rows i, then samples b, then heads h. The valid keys of a row depend on (b, i) alone and
 * are found once for all heads. Each row (b, h, i) is converted to f64 once and feeds
 *
 *     core        the weights of its valid keys, gathered side by side (`struct row`)
 *     importance  the row as sent
 *     maps        sum and max over heads of the rows as sent, finished when the last head is in
 *     pairs       the mean map, averaged over samples, finished when the last sample is in
 *     pool        the sum map in cells (map_pool.h), with the maps
 */
#include "workers/rows/block_ref.h"
#include "proto/err.h"
#include "workers/rows/occurrence.h"
#include "workers/rows/row_metrics.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* Whether induction and duplicate_token exist. */
static bool has_occurrences(const struct block *block, const struct attention *a)
{
    return block->plan.group[METRIC_GROUP_CORE] && a->self && a->tokens;
}

void block_ref_lay(void *data, struct scratch_pieces *m)
{
    struct block_work *w = data;
    uint64_t keys = w->a->keys, chains = has_occurrences(w->block, w->a) ? w->a->batch + 2ull : 0;
    w->sent = scratch_carve(m, keys, sizeof *w->sent);
    w->weight = scratch_carve(m, keys, sizeof *w->weight);
    w->softmax = scratch_carve(m, keys, sizeof *w->softmax);
    w->sum = scratch_carve(m, keys, sizeof *w->sum);
    w->max = scratch_carve(m, keys, sizeof *w->max);
    w->pair_sum = scratch_carve(m, keys, sizeof *w->pair_sum);
    w->key = scratch_carve(m, keys, sizeof *w->key);
    w->pair_n = scratch_carve(m, keys, sizeof *w->pair_n);
    w->extent = scratch_carve(m, w->a->batch, sizeof *w->extent);
    w->previous = chains ? scratch_carve(m, chains * keys, sizeof *w->previous) : NULL;
}

void block_ref_begin(const struct block_work *w)
{
    const struct attention *a = w->a;
    size_t n = a->keys;
    for (uint32_t b = 0; b < a->batch; b++) {
        if (w->block->plan.group[METRIC_GROUP_PAIRS] || w->block->pool) {
            w->extent[b] = attention_extent(a, b);
        }
        if (w->previous) {
            occurrence_link(a->tokens + b * n, attention_key_count(a, b),
                            w->previous + a->batch * n, w->previous + b * n);
        }
    }
}

/* Judges and counts one row with a valid query; returns whether it is sound. */
static bool block_ref_count_row(struct block *block, const struct attention *a, const struct row *r)
{
    double sum = row_sum(r);
    if (r->n > 0 && isfinite(sum)) {
        block->row_sum_error = fmax(block->row_sum_error, fabs(sum - 1)); /* NaN gives way */
    }
    bool sound = row_sound(a, r, sum);
    block->rows += sound;
    block->invalid_rows += !sound;
    return sound;
}

/* Importance, of the row as sent. */

static bool block_ref_all_finite(const double *x, uint32_t n)
{
    for (uint32_t j = 0; j < n; j++) {
        if (!isfinite(x[j])) {
            return false;
        }
    }
    return true;
}

/* -sum P ln(P + 1e-8), P = softmax of the row; `e` holds n elements. */
static double softmax_entropy(const double *x, uint32_t n, double *e)
{
    double max = x[0];
    for (uint32_t j = 1; j < n; j++) {
        max = x[j] > max ? x[j] : max;
    }
    double sum = 0;
    for (uint32_t j = 0; j < n; j++) {
        e[j] = exp(x[j] - max);
        sum += e[j];
    }
    double entropy = 0;
    for (uint32_t j = 0; j < n; j++) {
        double p = e[j] / sum;
        entropy -= p * log(p + 1e-8);
    }
    return entropy;
}

static void block_ref_add_importance(struct importance_block *share, const double *sent,
                                     uint32_t keys, double *e)
{
    if (block_ref_all_finite(sent, keys)) {
        share->entropy += softmax_entropy(sent, keys, e);
        row_merge_moments(&share->entries, sent, keys);
    }
}

/* Across-head maps. */

static void begin_maps(const struct block_work *w, uint32_t keys)
{
    for (uint32_t j = 0; j < keys; j++) {
        w->sum[j] = 0;
        w->max[j] = -INFINITY;
    }
}

/* NaN stays in the maximum once it is there, as in torch. */
static void block_ref_add_to_maps(const struct block_work *w, uint32_t keys)
{
    for (uint32_t j = 0; j < keys; j++) {
        double x = w->sent[j];
        w->sum[j] += x;
        w->max[j] = x > w->max[j] || isnan(x) ? x : w->max[j];
    }
}

/* Adds a finished row of a map to its statistics, finite entries only. */
static void block_ref_add_map(struct moments *map, const double *x, uint32_t keys, double *finite)
{
    uint32_t n = 0;
    for (uint32_t j = 0; j < keys; j++) {
        finite[n] = x[j];
        n += isfinite(x[j]) != 0;
    }
    row_merge_moments(map, finite, n);
}

static void sum_to_mean(double *sum, uint32_t keys, uint32_t heads)
{
    for (uint32_t j = 0; j < keys; j++) {
        sum[j] /= heads;
    }
}

/* Top pairs. */

static void begin_pairs(const struct block_work *w, uint32_t keys)
{
    memset(w->pair_sum, 0, keys * sizeof *w->pair_sum);
    memset(w->pair_n, 0, keys * sizeof *w->pair_n);
}

/* Row i of the mean map of sample b, without padding. */
static void add_to_pairs(const struct block_work *w, const struct attention *a, uint32_t b,
                         uint32_t i)
{
    const struct attention_extent *extent = &w->extent[b];
    const double *mean = w->sum;
    if (!attention_shown(a, extent, b, i)) {
        return;
    }
    for (uint32_t j = extent->key; j < extent->key_end; j++) {
        if (isfinite(mean[j])) {
            w->pair_sum[j] += mean[j];
            w->pair_n[j]++;
        }
    }
}

/* The average of an entry is over the samples where it is finite. */
static void block_ref_offer_pairs(struct block *block, const struct block_work *w, uint32_t i,
                                  uint32_t keys)
{
    for (uint32_t j = 0; j < keys; j++) {
        double weight = w->pair_sum[j] / w->pair_n[j];
        if (isfinite(weight)) {
            block_offer_pair(block, (struct pair){.query = i, .key = j, .weight = weight});
        }
    }
}

/* Putting it together. */

bool block_ref_across(const struct block *block)
{
    return block->plan.maps || block->plan.group[METRIC_GROUP_PAIRS] || block->pool;
}

/* Row i of the sum map of sample b, in w->sum. */
static void block_ref_add_to_pool(const struct block *block, const struct attention *a,
                                  const struct block_work *w, uint32_t b, uint32_t i)
{
    const struct attention_extent *extent = &w->extent[b];
    if (attention_shown(a, extent, b, i)) {
        map_pool_add_row(block->pool, i, w->sum, extent->key, extent->key_end);
    }
}

/* Statistics of the maps of (b, i), now that all heads are in; leaves the mean map's row in w->sum.
 */
static void block_ref_finish_maps(struct block *block, const struct attention *a,
                                  const struct block_work *w, uint32_t b, uint32_t i)
{
    uint32_t keys = a->keys;
    if (block->plan.maps) {
        block_ref_add_map(&block->map[AGGREGATE_SUM], w->sum, keys, w->weight);
        block_ref_add_map(&block->map[AGGREGATE_MAX], w->max, keys, w->weight);
    }
    if (block->pool) {
        block_ref_add_to_pool(block, a, w, b, i);
    }
    sum_to_mean(w->sum, keys, block->heads);
    if (block->plan.maps) {
        block_ref_add_map(&block->map[AGGREGATE_MEAN], w->sum, keys, w->weight);
    }
    if (block->plan.group[METRIC_GROUP_PAIRS]) {
        add_to_pairs(w, a, b, i);
    }
}

/* Row (b, h, i), already in w->sent, with its n valid keys in w->key. */
static int add_valid_row(struct block *block, const struct attention *a, const struct block_work *w,
                         uint32_t b, uint32_t h, uint32_t i, uint32_t n)
{
    row_gather(w->sent, w->key, n, w->weight);
    struct row r = {.position = attention_position(a, i),
                    .first = attention_first_key(a, b, i),
                    .n = n,
                    .key = w->key,
                    .weight = w->weight};
    bool sound = block_ref_count_row(block, a, &r);
    if (!sound || !block->plan.group[METRIC_GROUP_CORE]) {
        return 0;
    }
    struct row_context context = {.a = a,
                                  .sample = b,
                                  .local_window = block->plan.local_window,
                                  .share = w->softmax,
                                  .previous =
                                      !w->previous ? NULL : w->previous + (size_t)b * a->keys};
    return row_metrics_add(&block->head[h], &context, &r);
}

/* Query i of one sample, all heads. */
static int block_ref_add_sample(struct block *block, const struct attention *a,
                                const struct block_work *w, uint32_t b, uint32_t i)
{
    bool query_valid = attention_query_valid(a, b, i);
    uint32_t n = query_valid ? attention_valid_keys(a, b, i, w->key) : 0;
    bool across = block_ref_across(block);
    begin_maps(w, a->keys);
    for (uint32_t h = 0; h < a->heads; h++) {
        attention_load_row(a, b, h, i, w->sent);
        if (across) {
            block_ref_add_to_maps(w, a->keys);
        }
        if (block->plan.group[METRIC_GROUP_IMPORTANCE]) {
            struct importance_block *share = &block->importance[(size_t)b * a->heads + h];
            block_ref_add_importance(share, w->sent, a->keys, w->softmax);
        }
        int rc = query_valid ? add_valid_row(block, a, w, b, h, i, n) : 0;
        if (rc < 0) {
            return rc;
        }
    }
    if (across) {
        block_ref_finish_maps(block, a, w, b, i);
    }
    return 0;
}

int block_ref_row(struct block *block, const struct attention *a, const struct block_work *w,
                  uint32_t b, uint32_t h, uint32_t i)
{
    attention_load_row(a, b, h, i, w->sent);
    uint32_t n = attention_valid_keys(a, b, i, w->key);
    return add_valid_row(block, a, w, b, h, i, n);
}

void block_ref_importance(struct block *block, const struct attention *a,
                          const struct block_work *w, uint32_t b, uint32_t h, uint32_t i)
{
    attention_load_row(a, b, h, i, w->sent);
    block_ref_add_importance(&block->importance[(size_t)b * a->heads + h], w->sent, a->keys,
                             w->softmax);
}

/* Row i of the sum and max maps of one sample. */
static void load_maps(const struct attention *a, const struct block_work *w, uint32_t b, uint32_t i)
{
    begin_maps(w, a->keys);
    for (uint32_t h = 0; h < a->heads; h++) {
        attention_load_row(a, b, h, i, w->sent);
        block_ref_add_to_maps(w, a->keys);
    }
}

void block_ref_maps(struct block *block, const struct attention *a, const struct block_work *w,
                    uint32_t b, uint32_t i)
{
    load_maps(a, w, b, i);
    block_ref_add_map(&block->map[AGGREGATE_SUM], w->sum, a->keys, w->weight);
    block_ref_add_map(&block->map[AGGREGATE_MAX], w->max, a->keys, w->weight);
    sum_to_mean(w->sum, a->keys, a->heads);
    block_ref_add_map(&block->map[AGGREGATE_MEAN], w->sum, a->keys, w->weight);
}

void block_ref_pool(struct block *block, const struct attention *a, const struct block_work *w,
                    uint32_t b, uint32_t i)
{
    load_maps(a, w, b, i);
    block_ref_add_to_pool(block, a, w, b, i);
}

void block_ref_pairs(struct block *block, const struct attention *a, const struct block_work *w,
                     uint32_t i)
{
    begin_pairs(w, a->keys);
    for (uint32_t b = 0; b < a->batch; b++) {
        load_maps(a, w, b, i);
        sum_to_mean(w->sum, a->keys, a->heads);
        add_to_pairs(w, a, b, i);
    }
    block_ref_offer_pairs(block, w, i, a->keys);
}

int block_compute_ref(struct block *block, const struct attention *a, uint32_t row_begin,
                      uint32_t row_end, struct scratch *scratch)
{
    assert(block->batch == a->batch && block->heads == a->heads && row_end <= a->queries);
    struct block_work w = {.block = block, .a = a};
    int rc = scratch_take_pieces(scratch, block_ref_lay, &w);
    if (rc != 0) {
        return rc;
    }
    block_ref_begin(&w);
    for (uint32_t i = row_begin; rc == 0 && i < row_end; i++) {
        begin_pairs(&w, a->keys);
        for (uint32_t b = 0; rc == 0 && b < a->batch; b++) {
            scratch_pause(scratch);
            rc = block_ref_add_sample(block, a, &w, b, i);
        }
        if (rc == 0 && block->plan.group[METRIC_GROUP_PAIRS]) {
            block_ref_offer_pairs(block, &w, i, a->keys);
        }
    }
    return rc;
}
