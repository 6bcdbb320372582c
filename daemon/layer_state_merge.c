/* SPDX-License-Identifier: MIT */
/* Merging the states of two parts of a window. */
#include "layer_state_part.h"

#include <math.h>
#include <string.h>

static void take_detail(struct detail **into, struct detail *from)
{
    detail_release(into);
    *into = detail_reference(from);
}

static void merge_newest(struct layer_state *into, const struct layer_state *from)
{
    if (from->weights_arrival >= into->weights_arrival) {
        into->weights_arrival = from->weights_arrival;
        take_detail(&into->weights, from->weights);
    }
    if (from->map && (!into->map || from->newest >= into->newest))
        take_detail(&into->map, from->map);
    if (from->newest < into->newest)
        return;
    into->newest = from->newest;
    into->epoch = from->epoch;
    into->step = from->step;
    into->time_ns = from->time_ns;
    into->causal = from->causal;
    into->tier = from->tier;
    into->sink_rate_last = from->sink_rate_last;
    into->local_window = from->local_window;
    memcpy(into->shape, from->shape, sizeof into->shape);
    memcpy(into->aggregate_last, from->aggregate_last, sizeof into->aggregate_last);
    if (from->detail)
        take_detail(&into->detail, from->detail);
}

static void merge_counts(struct layer_state *into, const struct layer_state *from)
{
    into->rows += from->rows;
    into->invalid_rows += from->invalid_rows;
    into->row_sum_error = fmax(into->row_sum_error, from->row_sum_error);
    into->messages += from->messages;
    tally_merge(&into->tally, &from->tally);
    for (int m = 0; m < METRIC_COUNT; m++)
        into->on[m] = into->on[m] || from->on[m];
    for (int a = 0; a < AGGREGATE_COUNT; a++)
        into->has_aggregate[a] = into->has_aggregate[a] || from->has_aggregate[a];
    for (int v = 0; v < VECTOR_COUNT; v++)
        into->has_vector[v] = into->has_vector[v] || from->has_vector[v];
}

static void merge_last_vectors(struct layer_state *into, const struct layer_state *from, uint32_t h)
{
    for (int v = 0; from->vector_last && v < VECTOR_COUNT; v++) {
        size_t at = (size_t)h * VECTORS_WIDTH + vector_info[v].offset;
        if (!isnan(from->vector_last[at]))
            memcpy(&into->vector_last[at], &from->vector_last[at],
                   vector_info[v].width * sizeof *into->vector_last);
    }
}

static void merge_last_of_head(struct layer_state *into, const struct layer_state *from, uint32_t h)
{
    into->last_arrival[h] = from->last_arrival[h];
    into->pattern[h] = from->pattern[h];
    layer_state_set_last(into, h, from->last + h, from->heads);
    merge_last_vectors(into, from, h);
}

static void merge_last(struct layer_state *into, const struct layer_state *from)
{
    for (uint32_t h = 0; h < into->heads; h++)
        if (from->last_arrival[h] >= into->last_arrival[h])
            merge_last_of_head(into, from, h);
}

static int merge_ranks(struct layer_state *into, const struct layer_state *from)
{
    int code = layer_state_reserve_ranks(into, from->rank_bytes);
    for (uint32_t i = 0; i < from->rank_bytes && !code; i++)
        into->rank_bits[i] |= from->rank_bits[i];
    return code;
}

static int merge_stat(struct layer_state *into, const struct layer_state *from, int metric)
{
    if (!from->stat[metric])
        return 0;
    int code = layer_state_reserve_stat(into, metric);
    for (uint32_t h = 0; h < into->heads && !code; h++) {
        code = dist_merge(&into->stat[metric][h], &from->stat[metric][h]);
        dist_limit(&into->stat[metric][h], into->buckets);
    }
    return code;
}

static int merge_vector(struct layer_state *into, const struct layer_state *from, int vector)
{
    if (!from->vector[vector])
        return 0;
    int code = layer_state_reserve_vector(into, vector);
    size_t count = (size_t)into->heads * vector_info[vector].width;
    for (size_t i = 0; i < count && !code; i++)
        moments_merge(&into->vector[vector][i], &from->vector[vector][i]);
    return code;
}

int layer_state_merge(struct layer_state *into, const struct layer_state *from)
{
    int code = merge_ranks(into, from);
    for (int m = 0; m < METRIC_COUNT && !code; m++)
        code = merge_stat(into, from, m);
    for (int v = 0; v < VECTOR_COUNT && !code; v++)
        code = merge_vector(into, from, v);
    for (int a = 0; a < AGGREGATE_COUNT; a++)
        for (int s = 0; s < MAP_STAT_COUNT && !code; s++)
            code = dist_merge(&into->aggregate[a][s], &from->aggregate[a][s]);
    if (!code)
        code = dist_merge(&into->sink_rate, &from->sink_rate);
    if (code)
        return code;
    merge_counts(into, from);
    merge_last(into, from);
    merge_newest(into, from);
    return 0;
}
