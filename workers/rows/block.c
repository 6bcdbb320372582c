/* SPDX-License-Identifier: MIT */
/* block: life, merging and reading out; the arithmetic on rows is in block_ref.c.
 *
 * Everything a block holds is a sum, a set of moments, a histogram or a list of best entries, so
 * merging is member by member. Only two numbers are worked out at the end, from the merged state:
 * locality (a quotient) and importance (a softmax over heads). */
#include "workers/rows/block.h"
#include "proto/err.h"
#include "workers/rows/pairs.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

int block_init(struct block *block, const struct attention *a, const struct block_plan *plan)
{
    assert(a->batch > 0 && a->heads > 0 && a->queries > 0 && a->keys > 0);
    assert(!plan->group[METRIC_GROUP_PAIRS] ||
           (plan->top_pairs >= 1 && plan->top_pairs <= TOP_PAIRS_MAX));
    *block =
        (struct block){.plan = *plan, .batch = a->batch, .heads = a->heads, .row_sum_error = NAN};
    size_t shares = plan->group[METRIC_GROUP_IMPORTANCE] ? (size_t)a->batch * a->heads : 0;
    size_t pairs = plan->group[METRIC_GROUP_PAIRS] ? plan->top_pairs : 0;
    block->head = calloc(a->heads, sizeof *block->head);
    block->importance = shares > 0 ? calloc(shares, sizeof *block->importance) : NULL;
    block->pairs = pairs > 0 ? calloc(pairs, sizeof *block->pairs) : NULL;
    if (!block->head || (shares > 0 && !block->importance) || (pairs > 0 && !block->pairs)) {
        block_clear(block);
        return ERR_MEMORY;
    }
    return 0;
}

void block_clear(struct block *block)
{
    for (uint32_t h = 0; block->head && h < block->heads; h++) {
        for (uint32_t m = 0; m < METRIC_ROW_COUNT; m++) {
            dist_clear(&block->head[h].row[m]);
        }
    }
    free(block->head);
    free(block->importance);
    free(block->pairs);
    *block = (struct block){.row_sum_error = NAN};
}

void block_offer_pair(struct block *block, struct pair pair)
{
    block->pair_count = pairs_offer(block->pairs, block->pair_count, block->plan.top_pairs, pair);
}

static int block_merge_head(struct head_block *into, const struct head_block *from)
{
    for (uint32_t m = 0; m < METRIC_ROW_COUNT; m++) {
        int rc = dist_merge(&into->row[m], &from->row[m]);
        if (rc < 0) {
            return rc;
        }
    }
    moments_merge(&into->entries, &from->entries);
    moments_merge(&into->logits, &from->logits);
    moments_merge(&into->cosine, &from->cosine);
    moments_merge(&into->q_norm, &from->q_norm);
    moments_merge(&into->k_norm, &from->k_norm);
    moments_merge(&into->output_norm, &from->output_norm);
    moments_merge(&into->norm_weighted_entropy, &from->norm_weighted_entropy);
    moments_merge(&into->write_norm, &from->write_norm);
    moments_merge(&into->residual_share, &from->residual_share);
    into->gradient += from->gradient;
    into->neighbour_sum += from->neighbour_sum;
    into->neighbour_count += from->neighbour_count;
    return 0;
}

int block_merge(struct block *into, const struct block *from)
{
    assert(into->batch == from->batch && into->heads == from->heads);
    assert(memcmp(into->plan.group, from->plan.group, sizeof into->plan.group) == 0);
    assert(into->plan.maps == from->plan.maps && into->plan.gradient == from->plan.gradient);
    assert(into->plan.local_window == from->plan.local_window);
    for (uint32_t h = 0; h < into->heads; h++) {
        int rc = block_merge_head(&into->head[h], &from->head[h]);
        if (rc < 0) {
            return rc;
        }
    }
    into->rows += from->rows;
    into->invalid_rows += from->invalid_rows;
    into->row_sum_error = fmax(into->row_sum_error, from->row_sum_error); /* NaN gives way */
    size_t count = into->importance ? (size_t)into->batch * into->heads : 0;
    for (size_t i = 0; i < count; i++) {
        into->importance[i].entropy += from->importance[i].entropy;
        moments_merge(&into->importance[i].entries, &from->importance[i].entries);
    }
    for (uint32_t map = 0; map < BLOCK_MAPS; map++) {
        moments_merge(&into->map[map], &from->map[map]);
    }
    for (uint32_t i = 0; i < from->pair_count; i++) {
        block_offer_pair(into, from->pairs[i]);
    }
    return 0;
}

/* (V + E) / 2 of one head, V and E averaged over the samples that have two entries or more; NaN
 * without. */
static double importance_score(const struct block *block, uint32_t h)
{
    double variance = 0, entropy = 0;
    uint32_t samples = 0;
    for (uint32_t b = 0; b < block->batch; b++) {
        const struct importance_block *share = &block->importance[(size_t)b * block->heads + h];
        if (share->entries.n >= 2) {
            variance += moments_variance(&share->entries);
            entropy += share->entropy;
            samples++;
        }
    }
    return samples > 0 ? (variance / samples + entropy / samples) / 2 : NAN;
}

/* In place, over the finite scores; the others become NaN. */
static void block_softmax(double *score, uint32_t n)
{
    double max = -INFINITY;
    for (uint32_t h = 0; h < n; h++) {
        max = isfinite(score[h]) && score[h] > max ? score[h] : max;
    }
    double sum = 0;
    for (uint32_t h = 0; h < n; h++) {
        score[h] = isfinite(score[h]) ? exp(score[h] - max) : NAN;
        sum += isnan(score[h]) ? 0 : score[h];
    }
    for (uint32_t h = 0; h < n; h++) {
        score[h] /= sum;
    }
}

static double moments_min(const struct moments *m)
{
    return m->n > 0 ? m->min : NAN;
}

static double moments_max(const struct moments *m)
{
    return m->n > 0 ? m->max : NAN;
}

static double moments_max_abs(const struct moments *m)
{
    return m->n > 0 ? fmax(fabs(m->min), fabs(m->max)) : NAN;
}

/* The metrics that are read off one set of moments of a head. */
static const struct {
    enum metric metric;
    size_t moments; /* offset in struct head_block */
    double (*read)(const struct moments *);
} read_outs[] = {
    {METRIC_MEAN, offsetof(struct head_block, entries), moments_mean},
    {METRIC_MIN, offsetof(struct head_block, entries), moments_min},
    {METRIC_MAX, offsetof(struct head_block, entries), moments_max},
    {METRIC_STD, offsetof(struct head_block, entries), moments_std},
    {METRIC_VARIANCE, offsetof(struct head_block, entries), moments_variance},
    {METRIC_MAX_ABS_LOGIT, offsetof(struct head_block, logits), moments_max_abs},
    {METRIC_MEAN_LOGIT, offsetof(struct head_block, logits), moments_mean},
    {METRIC_STD_LOGIT, offsetof(struct head_block, logits), moments_std},
    {METRIC_QK_COSINE, offsetof(struct head_block, cosine), moments_mean},
    {METRIC_QK_COSINE_MAX, offsetof(struct head_block, cosine), moments_max},
    {METRIC_Q_NORM, offsetof(struct head_block, q_norm), moments_mean},
    {METRIC_K_NORM, offsetof(struct head_block, k_norm), moments_mean},
    {METRIC_OUTPUT_NORM, offsetof(struct head_block, output_norm), moments_mean},
    {METRIC_NORM_WEIGHTED_ENTROPY, offsetof(struct head_block, norm_weighted_entropy),
     moments_mean},
    {METRIC_WRITE_NORM, offsetof(struct head_block, write_norm), moments_mean},
    {METRIC_RESIDUAL_SHARE, offsetof(struct head_block, residual_share), moments_mean},
};

static double locality(const struct head_block *head)
{
    return head->neighbour_count > 0 ? head->neighbour_sum / (double)head->neighbour_count : NAN;
}

/* Every core metric of one head. */
static void head_values(const struct head_block *head, double ret_value[METRIC_COUNT])
{
    for (uint32_t m = 0; m < METRIC_ROW_COUNT; m++) {
        ret_value[m] = moments_mean(&head->row[m].moments);
    }
    for (size_t i = 0; i < sizeof read_outs / sizeof read_outs[0]; i++) {
        const char *moments = (const char *)head + read_outs[i].moments;
        ret_value[read_outs[i].metric] =
            read_outs[i].read((const struct moments *)(const void *)moments);
    }
    ret_value[METRIC_LOCALITY] = locality(head);
}

static void core_values(const struct block *block, double *const ret_value[METRIC_COUNT])
{
    for (uint32_t h = 0; h < block->heads; h++) {
        double value[METRIC_COUNT];
        head_values(&block->head[h], value);
        for (uint32_t m = 0; m < METRIC_COUNT; m++) {
            if (metric_info[m].group == METRIC_GROUP_CORE && ret_value[m]) {
                ret_value[m][h] = value[m];
            }
        }
    }
}

static void importance_values(const struct block *block, double *ret_value)
{
    for (uint32_t h = 0; h < block->heads; h++) {
        ret_value[h] = importance_score(block, h);
    }
    block_softmax(ret_value, block->heads);
}

void block_values(const struct block *block, double *const ret_value[METRIC_COUNT])
{
    if (block->plan.group[METRIC_GROUP_CORE]) {
        core_values(block, ret_value);
    }
    if (!block->plan.group[METRIC_GROUP_IMPORTANCE]) {
        return;
    }
    if (ret_value[METRIC_IMPORTANCE]) {
        importance_values(block, ret_value[METRIC_IMPORTANCE]);
    }
    for (uint32_t h = 0; ret_value[METRIC_IMPORTANCE_GRADIENT] && h < block->heads; h++) {
        ret_value[METRIC_IMPORTANCE_GRADIENT][h] = NAN; /* measure_numbers.c */
    }
}

void block_map_stats(const struct moments *map, double ret_stat[MAP_STAT_COUNT])
{
    ret_stat[MAP_MEAN] = moments_mean(map);
    ret_stat[MAP_MAX] = moments_max(map);
    ret_stat[MAP_MIN] = moments_min(map);
    ret_stat[MAP_STD] = moments_std(map);
}
