/* SPDX-License-Identifier: MIT */
#include "layer_state.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static size_t stats_count(const struct layer_state *state)
{
    return (size_t)METRIC_COUNT * state->heads;
}

static size_t singular_count(const struct layer_state *state)
{
    return (size_t)SINGULAR_VALUES_MAX * state->heads;
}

static void fill_nan(double *numbers, size_t count)
{
    for (size_t i = 0; i < count; i++)
        numbers[i] = NAN;
}

struct layer_state *layer_state_new(uint32_t heads)
{
    struct layer_state *state = calloc(1, sizeof *state);
    if (!state)
        return NULL;
    state->heads = heads;
    state->row_sum_error = NAN;
    state->stat = calloc(stats_count(state), sizeof *state->stat);
    state->last = malloc(stats_count(state) * sizeof *state->last);
    state->last_arrival = calloc(heads, sizeof *state->last_arrival);
    state->singular_values = calloc(singular_count(state), sizeof *state->singular_values);
    state->singular_last = malloc(singular_count(state) * sizeof *state->singular_last);
    if (!state->stat || !state->last || !state->last_arrival || !state->singular_values ||
        !state->singular_last) {
        layer_state_free(&state);
        return NULL;
    }
    fill_nan(state->last, stats_count(state));
    fill_nan(state->singular_last, singular_count(state));
    fill_nan(&state->aggregate_last[0][0], (size_t)AGGREGATE_COUNT * MAP_STAT_COUNT);
    return state;
}

void layer_state_free(struct layer_state **state_p)
{
    struct layer_state *state = *state_p;
    if (!state)
        return;
    for (size_t i = 0; state->stat && i < stats_count(state); i++)
        dist_clear(&state->stat[i]);
    for (int a = 0; a < AGGREGATE_COUNT; a++)
        for (int s = 0; s < MAP_STAT_COUNT; s++)
            dist_clear(&state->aggregate[a][s]);
    free(state->stat);
    free(state->last);
    free(state->last_arrival);
    free(state->singular_values);
    free(state->singular_last);
    free(state->rank_bits);
    free(state);
    *state_p = NULL;
}

/* Memory */

uint64_t layer_state_new_bytes(uint32_t heads)
{
    const struct layer_state *state = NULL;
    uint64_t per_metric = sizeof *state->stat + sizeof *state->last;
    uint64_t per_value = sizeof *state->singular_values + sizeof *state->singular_last;
    uint64_t per_head =
        METRIC_COUNT * per_metric + SINGULAR_VALUES_MAX * per_value + sizeof *state->last_arrival;
    return sizeof *state + heads * per_head;
}

static uint64_t hist_bytes(const struct dist *dist)
{
    return dist->hist.capacity * sizeof *dist->hist.buckets;
}

uint64_t layer_state_bytes(const struct layer_state *state)
{
    uint64_t bytes = layer_state_new_bytes(state->heads) + state->rank_bytes;
    for (size_t i = 0; i < stats_count(state); i++)
        bytes += hist_bytes(&state->stat[i]);
    for (int a = 0; a < AGGREGATE_COUNT; a++)
        for (int s = 0; s < MAP_STAT_COUNT; s++)
            bytes += hist_bytes(&state->aggregate[a][s]);
    return bytes;
}

/* Ranks */

static int reserve_ranks(struct layer_state *state, uint32_t bytes)
{
    if (bytes <= state->rank_bytes)
        return 0;
    uint8_t *bits = realloc(state->rank_bits, bytes);
    if (!bits)
        return ERR_MEMORY;
    memset(bits + state->rank_bytes, 0, bytes - state->rank_bytes);
    state->rank_bits = bits;
    state->rank_bytes = bytes;
    return 0;
}

static int mark_rank(struct layer_state *state, uint32_t rank_index)
{
    int code = reserve_ranks(state, rank_index / 8 + 1);
    if (!code)
        state->rank_bits[rank_index / 8] |= (uint8_t)(1u << rank_index % 8);
    return code;
}

uint32_t layer_state_ranks(const struct layer_state *state)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < state->rank_bytes; i++)
        count += (uint32_t)__builtin_popcount(state->rank_bits[i]);
    return count;
}

/* One message */

static void add_newest(struct layer_state *state, const struct message *message,
                       const struct measured *measured)
{
    const struct header *header = &message->header;
    const uint32_t shape[4] = {header->batch, header->heads, header->queries, header->keys};
    state->newest = message->arrival;
    state->epoch = header->epoch;
    state->step = header->step;
    state->time_ns = header->time_ns;
    state->causal = header->causal;
    memcpy(state->shape, shape, sizeof shape);
    memcpy(state->aggregate_last, measured->aggregate, sizeof measured->aggregate);
    state->pair_count = measured->rows->pairs ? measured->rows->pair_count : 0;
    if (state->pair_count)
        memcpy(state->pairs, measured->rows->pairs, state->pair_count * sizeof state->pairs[0]);
}

static void add_counts(struct layer_state *state, const struct measured *measured)
{
    state->messages++;
    state->rows += measured->rows->rows;
    state->invalid_rows += measured->rows->invalid_rows;
    state->row_sum_error = fmax(state->row_sum_error, measured->rows->row_sum_error);
}

/* Head h of the message is head `to` of the model. */
static int add_head(struct layer_state *state, const struct measured *measured, uint32_t h,
                    uint32_t to)
{
    int code = 0;
    for (int m = 0; m < METRIC_COUNT && !code; m++) {
        struct dist *stat = &state->stat[(size_t)m * state->heads + to];
        if (!measured->value[m])
            continue;
        if (m < METRIC_ROW_COUNT)
            code = dist_merge(stat, &measured->rows->head[h].row[m]);
        else
            code = dist_add(stat, measured->value[m][h]);
    }
    return code;
}

static void add_singular_values(struct layer_state *state, const double *values, uint32_t to)
{
    struct moments *moments = &state->singular_values[(size_t)to * SINGULAR_VALUES_MAX];
    for (int i = 0; i < SINGULAR_VALUES_MAX; i++)
        if (isfinite(values[i]))
            moments_add(&moments[i], values[i]);
}

static void add_last(struct layer_state *state, const struct measured *measured, uint32_t h,
                     uint32_t to, uint64_t arrival)
{
    if (arrival < state->last_arrival[to])
        return;
    state->last_arrival[to] = arrival;
    for (int m = 0; m < METRIC_COUNT; m++)
        state->last[(size_t)m * state->heads + to] =
            measured->value[m] ? measured->value[m][h] : NAN;
    double *singular_last = &state->singular_last[(size_t)to * SINGULAR_VALUES_MAX];
    if (measured->singular_values)
        memcpy(singular_last, &measured->singular_values[(size_t)h * SINGULAR_VALUES_MAX],
               SINGULAR_VALUES_MAX * sizeof *singular_last);
    else
        fill_nan(singular_last, SINGULAR_VALUES_MAX);
}

static int add_heads(struct layer_state *state, const struct message *message,
                     const struct measured *measured)
{
    int code = 0;
    for (uint32_t h = 0; h < message->header.heads && !code; h++) {
        uint32_t to = message->header.head_offset + h;
        code = add_head(state, measured, h, to);
        add_last(state, measured, h, to, message->arrival);
        if (measured->singular_values)
            add_singular_values(state, &measured->singular_values[(size_t)h * SINGULAR_VALUES_MAX],
                                to);
    }
    return code;
}

static int add_aggregate(struct layer_state *state, const struct measured *measured)
{
    int code = 0;
    for (int a = 0; a < BLOCK_MAPS; a++)
        for (int s = 0; s < MAP_STAT_COUNT && !code; s++)
            code = dist_add(&state->aggregate[a][s], measured->aggregate[a][s]);
    return code;
}

int layer_state_add(struct layer_state *state, const struct message *message,
                    const struct measured *measured)
{
    for (int m = 0; m < METRIC_COUNT; m++)
        state->on[m] = state->on[m] || measured->value[m];
    state->has_aggregate = state->has_aggregate || measured->has_aggregate;
    state->has_singular_values = state->has_singular_values || measured->singular_values;
    int code = mark_rank(state, message->rank_index);
    if (!code)
        code = add_heads(state, message, measured);
    if (!code && measured->has_aggregate)
        code = add_aggregate(state, measured);
    if (code)
        return code;
    add_counts(state, measured);
    if (message->arrival > state->newest)
        add_newest(state, message, measured);
    return 0;
}

/* Merging parts */

static void merge_newest(struct layer_state *into, const struct layer_state *from)
{
    if (from->newest < into->newest)
        return;
    into->newest = from->newest;
    into->epoch = from->epoch;
    into->step = from->step;
    into->time_ns = from->time_ns;
    into->causal = from->causal;
    memcpy(into->shape, from->shape, sizeof into->shape);
    memcpy(into->aggregate_last, from->aggregate_last, sizeof into->aggregate_last);
    memcpy(into->pairs, from->pairs, sizeof into->pairs);
    into->pair_count = from->pair_count;
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
    into->has_aggregate = into->has_aggregate || from->has_aggregate;
    into->has_singular_values = into->has_singular_values || from->has_singular_values;
}

static void merge_last(struct layer_state *into, const struct layer_state *from)
{
    for (uint32_t h = 0; h < into->heads; h++) {
        size_t singular = (size_t)h * SINGULAR_VALUES_MAX;
        if (from->last_arrival[h] < into->last_arrival[h])
            continue;
        into->last_arrival[h] = from->last_arrival[h];
        for (size_t m = 0; m < METRIC_COUNT; m++)
            into->last[m * into->heads + h] = from->last[m * from->heads + h];
        memcpy(&into->singular_last[singular], &from->singular_last[singular],
               SINGULAR_VALUES_MAX * sizeof(double));
    }
}

static int merge_ranks(struct layer_state *into, const struct layer_state *from)
{
    int code = reserve_ranks(into, from->rank_bytes);
    for (uint32_t i = 0; i < from->rank_bytes && !code; i++)
        into->rank_bits[i] |= from->rank_bits[i];
    return code;
}

int layer_state_merge(struct layer_state *into, const struct layer_state *from)
{
    int code = merge_ranks(into, from);
    for (size_t i = 0; i < stats_count(into) && !code; i++)
        code = dist_merge(&into->stat[i], &from->stat[i]);
    for (int a = 0; a < AGGREGATE_COUNT; a++)
        for (int s = 0; s < MAP_STAT_COUNT && !code; s++)
            code = dist_merge(&into->aggregate[a][s], &from->aggregate[a][s]);
    for (size_t i = 0; i < singular_count(into); i++)
        moments_merge(&into->singular_values[i], &from->singular_values[i]);
    merge_counts(into, from);
    merge_last(into, from);
    merge_newest(into, from);
    return code;
}

/* Encoding */

static struct result_stat stat_of_moments(const struct moments *m, double last)
{
    return (struct result_stat){
        .mean = moments_mean(m),
        .std = moments_std(m),
        .min = m->n ? m->min : NAN,
        .max = m->n ? m->max : NAN,
        .p50 = NAN,
        .p90 = NAN,
        .p99 = NAN,
        .last = last,
        .count = m->n,
    };
}

static struct result_stat stat_of(const struct dist *dist, double last)
{
    struct result_stat stat = stat_of_moments(&dist->moments, last);
    stat.p50 = dist_quantile(dist, 0.50);
    stat.p90 = dist_quantile(dist, 0.90);
    stat.p99 = dist_quantile(dist, 0.99);
    return stat;
}

/* The statistics of a state, in the layout that summary_encode wants. */
struct summary_stats {
    struct result_stat *metrics;  /* [METRIC_COUNT][heads] */
    struct result_stat *singular; /* [heads][SINGULAR_VALUES_MAX] */
    struct result_stat aggregate[AGGREGATE_COUNT][MAP_STAT_COUNT];
    struct reason_count dropped[TALLY_REASONS_MAX];
    uint32_t dropped_count;
};

static int summary_stats_new(const struct layer_state *state, struct summary_stats *stats)
{
    stats->metrics = malloc(stats_count(state) * sizeof *stats->metrics);
    stats->singular = malloc(singular_count(state) * sizeof *stats->singular);
    if (!stats->metrics || !stats->singular)
        return ERR_MEMORY;
    for (size_t i = 0; i < stats_count(state); i++)
        stats->metrics[i] = stat_of(&state->stat[i], state->last[i]);
    for (size_t i = 0; i < singular_count(state); i++)
        stats->singular[i] = stat_of_moments(&state->singular_values[i], state->singular_last[i]);
    for (int a = 0; a < AGGREGATE_COUNT; a++)
        for (int s = 0; s < MAP_STAT_COUNT; s++)
            stats->aggregate[a][s] = stat_of(&state->aggregate[a][s], state->aggregate_last[a][s]);
    return 0;
}

static void describe_layer(const struct layer_state *state, struct layer_id id,
                           struct summary_result *result)
{
    result->layer = (struct result_layer){
        .id = id,
        .causal = state->causal,
        .rows = state->rows,
        .invalid_rows = state->invalid_rows,
        .row_sum_error = state->row_sum_error,
    };
    memcpy(result->layer.shape, state->shape, sizeof state->shape);
    result->ranks = layer_state_ranks(state);
    result->messages = state->messages;
    result->lost = state->tally.lost;
    result->heads = state->heads;
    result->pairs.pairs = state->pair_count ? state->pairs : NULL;
    result->pairs.count = state->pair_count;
}

static void attach_stats(const struct layer_state *state, const struct summary_stats *stats,
                         struct summary_result *result)
{
    for (size_t m = 0; m < METRIC_COUNT; m++)
        result->stat[m] = state->on[m] ? &stats->metrics[m * state->heads] : NULL;
    result->aggregate = stats->aggregate;
    for (int a = 0; a < BLOCK_MAPS; a++)
        result->has_aggregate[a] = state->has_aggregate;
    result->vector[VECTOR_SINGULAR_VALUES] = state->has_singular_values ? stats->singular : NULL;
    result->dropped = stats->dropped;
    result->dropped_count = stats->dropped_count;
}

int layer_state_encode(const struct layer_state *state, struct layer_id id, const char *job,
                       const uint8_t *run, const struct result_window *window,
                       struct mpk_writer *writer)
{
    struct summary_stats stats = {0};
    struct summary_result result = {
        .common = {job, run, state->epoch, state->step, state->time_ns},
        .window = *window,
    };
    int code = summary_stats_new(state, &stats);
    if (!code) {
        stats.dropped_count = tally_reasons(&state->tally, stats.dropped);
        describe_layer(state, id, &result);
        attach_stats(state, &stats, &result);
        summary_encode(&result, writer);
        code = mpk_writer_ok(writer) ? 0 : ERR_MEMORY;
    }
    free(stats.metrics);
    free(stats.singular);
    return code;
}
