/* SPDX-License-Identifier: MIT */
/* row_batch: columns of row values on their way into distributions. */
#include "workers/rows/row_batch.h"

#include <math.h>
#include <string.h>

/* Rows kept before a flush: enough for counting to be worth its table, few enough to stay in the
 * second-level cache. */
#define ROWS_KEPT 4096

static uint32_t capacity_of(uint32_t heads)
{
    return heads < ROWS_KEPT ? ROWS_KEPT / heads * heads : heads;
}

static size_t row_batch_aligned(size_t bytes)
{
    return (bytes + 63) & ~(size_t)63;
}

/* Bytes of one column; a batch may write past the end of what it fills. */
static size_t column_bytes(uint32_t heads)
{
    return row_batch_aligned(((size_t)capacity_of(heads) + 2 * ROW_BATCH) * sizeof(float));
}

size_t row_values_bytes(uint32_t heads)
{
    return (METRIC_ROW_COUNT + 1) * column_bytes(heads) +
           row_batch_aligned(heads * sizeof(struct row_totals)) +
           row_batch_aligned(sizeof(struct dist_counts));
}

static void clear_totals(struct row_values *values)
{
    for (uint32_t h = 0; h < values->heads; h++) {
        values->total[h] = (struct row_totals){.min = INFINITY, .max = -INFINITY};
    }
}

void row_values_begin(struct row_values *values, void *memory, uint32_t heads,
                      const struct row_kernels *kernels)
{
    unsigned char *at = memory;
    *values =
        (struct row_values){.kernels = kernels, .heads = heads, .capacity = capacity_of(heads)};
    for (uint32_t m = 0; m < METRIC_ROW_COUNT; m++) {
        values->exists[m] = true;
        values->value[m] = (float *)(void *)at;
        at += column_bytes(heads);
    }
    values->column = (float *)(void *)at;
    at += column_bytes(heads);
    values->total = (struct row_totals *)(void *)at;
    at += row_batch_aligned(heads * sizeof *values->total);
    values->counts = (struct dist_counts *)(void *)at;
    memset(values->counts, 0, sizeof *values->counts);
    clear_totals(values);
}

static void add_totals(struct row_totals *total, const struct row_batch *batch, uint32_t slot)
{
    double n = (double)batch->keys[slot], share = 1 / n;
    double sum = (double)batch->rest_sum[slot] + (double)batch->first[slot];
    total->keys += n;
    total->sum += sum;
    total->square += sum * sum * share;
    total->m2 += (double)batch->squares[slot];
    total->min = batch->min[slot] < total->min ? batch->min[slot] : total->min;
    total->max = batch->max[slot] > total->max ? batch->max[slot] : total->max;
}

int row_values_add(struct row_values *values, struct row_batch *batch, struct head_block *head)
{
    float *value[METRIC_ROW_COUNT];
    for (uint32_t m = 0; m < METRIC_ROW_COUNT; m++) {
        value[m] = values->value[m] + values->used;
    }
    values->gaps |= values->kernels->finish(batch, value);
    uint32_t h = (values->first + values->used) % values->heads;
    for (uint32_t slot = 0; slot < batch->used && !values->own_entries; slot++) {
        if (batch->sound[slot] > 0) {
            add_totals(&values->total[h], batch, slot);
        }
        h = h + 1 < values->heads ? h + 1 : 0;
    }
    values->used += batch->used;
    batch->used = 0;
    if (values->used + ROW_BATCH <= values->capacity) {
        return 0;
    }
    return row_values_flush(values, head);
}

/* The values of one head, of those that exist: returns how many. */
static size_t row_batch_gather(const struct row_values *values, uint32_t m, uint32_t h,
                               const float **ret_column)
{
    const float *value = values->value[m];
    size_t n = 0;
    *ret_column = values->column;
    if ((values->gaps >> m & 1) == 0) {
        if (values->heads == 1) {
            *ret_column = value;
            return values->used;
        }
        for (size_t k = (h + values->heads - values->first) % values->heads; k < values->used;
             k += values->heads) {
            values->column[n++] = value[k];
        }
        return n;
    }
    for (size_t k = (h + values->heads - values->first) % values->heads; k < values->used;
         k += values->heads) {
        values->column[n] = value[k];
        n += isfinite(value[k]) != 0;
    }
    return n;
}

static void row_batch_add_entries(struct moments *entries, const struct row_totals *total)
{
    if (!(total->keys > 0)) {
        return;
    }
    double between = total->square - total->sum * total->sum / total->keys;
    struct moments m = {
        .n = (uint64_t)total->keys,
        .mean = total->sum / total->keys,
        .m2 = total->m2 + fmax(between, 0),
        .min = (double)total->min,
        .max = (double)total->max,
    };
    moments_merge(entries, &m);
}

static int flush_metric(struct row_values *values, uint32_t m, struct head_block *head)
{
    for (uint32_t h = 0; h < values->heads; h++) {
        const float *column;
        size_t n = row_batch_gather(values, m, h, &column);
        if (n == 0) {
            continue;
        }
        values->kernels->count(column, n, values->counts);
        if (m == METRIC_PREVIOUS_TOKEN || m == METRIC_NEXT_TOKEN) {
            head[h].neighbour_sum += values->counts->moments.mean * (double)n;
            head[h].neighbour_count += n;
        }
        int rc = dist_add_counts(&head[h].row[m], values->counts);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

int row_values_flush(struct row_values *values, struct head_block *head)
{
    int rc = 0;
    for (uint32_t m = 0; rc == 0 && m < METRIC_ROW_COUNT; m++) {
        rc = values->exists[m] ? flush_metric(values, m, head) : 0;
    }
    for (uint32_t h = 0; h < values->heads; h++) {
        row_batch_add_entries(&head[h].entries, &values->total[h]);
    }
    clear_totals(values);
    values->first = (values->first + values->used) % values->heads;
    values->used = values->gaps = 0;
    return rc;
}
