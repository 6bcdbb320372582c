/* SPDX-License-Identifier: MIT */
#include "layer_state.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static size_t stats_count(const struct layer_state *state)
{
    return (size_t)METRIC_COUNT * state->heads;
}

static size_t vectors_count(const struct layer_state *state)
{
    return (size_t)VECTORS_WIDTH * state->heads;
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
    state->last = malloc(stats_count(state) * sizeof *state->last);
    state->last_arrival = calloc(heads, sizeof *state->last_arrival);
    state->pattern = malloc(heads * sizeof *state->pattern);
    if (!state->last || !state->last_arrival || !state->pattern) {
        layer_state_free(&state);
        return NULL;
    }
    fill_nan(state->last, stats_count(state));
    for (uint32_t h = 0; h < heads; h++)
        state->pattern[h] = PATTERN_NONE;
    state->sink_rate_last = NAN;
    fill_nan(&state->aggregate_last[0][0], (size_t)AGGREGATE_COUNT * MAP_STAT_COUNT);
    return state;
}

static void free_stats(struct layer_state *state)
{
    for (int m = 0; m < METRIC_COUNT; m++) {
        for (uint32_t h = 0; state->stat[m] && h < state->heads; h++)
            dist_clear(&state->stat[m][h]);
        free(state->stat[m]);
    }
    for (int v = 0; v < VECTOR_COUNT; v++)
        free(state->vector[v]);
    free(state->vector_last);
}

void layer_state_free(struct layer_state **state_p)
{
    struct layer_state *state = *state_p;
    if (!state)
        return;
    free_stats(state);
    for (int a = 0; a < AGGREGATE_COUNT; a++)
        for (int s = 0; s < MAP_STAT_COUNT; s++)
            dist_clear(&state->aggregate[a][s]);
    free(state->last);
    free(state->last_arrival);
    dist_clear(&state->sink_rate);
    free(state->pattern);
    detail_release(&state->detail);
    detail_release(&state->weights);
    free(state->rank_bits);
    free(state);
    *state_p = NULL;
}

/* Memory */

/* Without metrics. */
static uint64_t empty_bytes(uint32_t heads)
{
    const struct layer_state *state = NULL;
    uint64_t per_head =
        METRIC_COUNT * sizeof *state->last + sizeof *state->last_arrival + sizeof *state->pattern;
    return sizeof *state + heads * per_head;
}

/* Metrics that a layer of tier attention has by default. */
#define METRICS_TYPICAL 30

uint64_t layer_state_new_bytes(uint32_t heads)
{
    return empty_bytes(heads) + (uint64_t)heads * METRICS_TYPICAL * sizeof(struct dist);
}

static uint64_t hist_bytes(const struct dist *dist)
{
    return dist->hist.capacity * sizeof *dist->hist.buckets;
}

static uint64_t stats_bytes(const struct layer_state *state)
{
    uint64_t bytes = 0;
    for (int m = 0; m < METRIC_COUNT; m++)
        for (uint32_t h = 0; state->stat[m] && h < state->heads; h++)
            bytes += sizeof *state->stat[m] + hist_bytes(&state->stat[m][h]);
    for (int v = 0; v < VECTOR_COUNT; v++)
        if (state->vector[v])
            bytes += (uint64_t)state->heads * vector_info[v].width * sizeof *state->vector[v];
    if (state->vector_last)
        bytes += vectors_count(state) * sizeof *state->vector_last;
    return bytes;
}

uint64_t layer_state_bytes(const struct layer_state *state)
{
    uint64_t bytes = empty_bytes(state->heads) + state->rank_bytes + stats_bytes(state);
    for (int a = 0; a < AGGREGATE_COUNT; a++)
        for (int s = 0; s < MAP_STAT_COUNT; s++)
            bytes += hist_bytes(&state->aggregate[a][s]);
    bytes += state->detail ? state->detail->bytes : 0;
    bytes += state->weights ? state->weights->bytes : 0;
    return bytes + hist_bytes(&state->sink_rate);
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

static void set_newest(struct layer_state *state, const struct message *message)
{
    const struct header *header = &message->header;
    const uint32_t shape[4] = {header->batch, header->heads, header->queries, header->keys};
    state->epoch = header->epoch;
    state->step = header->step;
    state->time_ns = header->time_ns;
    state->causal = header->causal;
    state->tier = header->type;
    memcpy(state->shape, shape, sizeof shape);
}

static int add_newest(struct layer_state *state, const struct message *message,
                      const struct measured *measured)
{
    if (measured->pairs || measured->head_similarity) {
        struct detail *detail = detail_new(measured);
        if (!detail)
            return ERR_MEMORY;
        detail_release(&state->detail);
        state->detail = detail;
    }
    state->newest = message->arrival;
    state->sink_rate_last = measured->sink_rate;
    state->local_window = measured->local_window;
    memcpy(state->aggregate_last, measured->aggregate, sizeof state->aggregate_last);
    set_newest(state, message);
    return 0;
}

static int add_newest_weights(struct layer_state *state, const struct message *message,
                              const struct measured *measured)
{
    struct detail *detail = detail_new(measured);
    if (!detail)
        return ERR_MEMORY;
    detail_release(&state->weights);
    state->weights = detail;
    state->weights_arrival = message->arrival;
    if (!state->newest)
        set_newest(state, message);
    return 0;
}

static void add_counts(struct layer_state *state, const struct measured *measured)
{
    state->messages++;
    state->rows += measured->rows;
    state->invalid_rows += measured->invalid_rows;
    state->row_sum_error = fmax(state->row_sum_error, measured->row_sum_error);
}

/* Room for a metric, for a vector, the first time there is one. */

static int reserve_stat(struct layer_state *state, int metric)
{
    if (!state->stat[metric])
        state->stat[metric] = calloc(state->heads, sizeof *state->stat[metric]);
    return state->stat[metric] ? 0 : ERR_MEMORY;
}

static int reserve_vector(struct layer_state *state, int vector)
{
    if (!state->vector_last) {
        state->vector_last = malloc(vectors_count(state) * sizeof *state->vector_last);
        if (!state->vector_last)
            return ERR_MEMORY;
        fill_nan(state->vector_last, vectors_count(state));
    }
    if (!state->vector[vector])
        state->vector[vector] =
            calloc((size_t)state->heads * vector_info[vector].width, sizeof *state->vector[vector]);
    return state->vector[vector] ? 0 : ERR_MEMORY;
}

/* Head h of the message is head `to` of the model. */

static int add_metric(struct layer_state *state, const struct measured *measured, int m, uint32_t h,
                      uint32_t to)
{
    bool is_row = m < METRIC_ROW_COUNT;
    if (!isfinite(measured->value[m][h]) && !(is_row && measured->head[h].row[m].moments.n > 0))
        return 0;
    int code = reserve_stat(state, m);
    if (code)
        return code;
    struct dist *stat = &state->stat[m][to];
    return is_row ? dist_merge(stat, &measured->head[h].row[m])
                  : dist_add(stat, measured->value[m][h]);
}

static int add_vector(struct layer_state *state, const double *values, int v, uint32_t to)
{
    const struct vector_info *info = &vector_info[v];
    int code = reserve_vector(state, v);
    if (code)
        return code;
    struct moments *moments = &state->vector[v][(size_t)to * info->width];
    for (uint32_t i = 0; i < info->width; i++)
        if (isfinite(values[i]))
            moments_add(&moments[i], values[i]);
    return 0;
}

static int add_head(struct layer_state *state, const struct measured *measured, uint32_t h,
                    uint32_t to)
{
    int code = 0;
    for (int m = 0; m < METRIC_COUNT && !code; m++)
        if (measured->value[m])
            code = add_metric(state, measured, m, h, to);
    for (int v = 0; v < VECTOR_COUNT && !code; v++)
        if (measured->vector[v])
            code = add_vector(state, &measured->vector[v][(size_t)h * vector_info[v].width], v, to);
    return code;
}

static void add_last_vectors(struct layer_state *state, const struct measured *measured, uint32_t h,
                             uint32_t to)
{
    if (!state->vector_last)
        return;
    double *last = &state->vector_last[(size_t)to * VECTORS_WIDTH];
    for (int v = 0; v < VECTOR_COUNT; v++) {
        size_t width = vector_info[v].width;
        if (measured->vector[v] && !isnan(measured->vector[v][h * width]))
            memcpy(last + vector_info[v].offset, &measured->vector[v][h * width],
                   width * sizeof *last);
    }
}

/* Heads take turns at spectra: the numbers of the last one stay until the next. Whether `value`,
 * one head's numbers `stride` apart, has a spectrum to which the metric belongs, or the metric
 * belongs to none. */
static bool has_turn(const double *value, size_t stride, int metric)
{
    if (metric_info[metric].group != METRIC_GROUP_SPECTRUM)
        return true;
    int norm = metric < METRIC_QK_SPECTRAL_NORM ? METRIC_SPECTRAL_NORM : METRIC_QK_SPECTRAL_NORM;
    return !isnan(value[(size_t)norm * stride]);
}

static void set_last(struct layer_state *state, uint32_t h, const double *value, size_t stride)
{
    for (int m = 0; m < METRIC_COUNT; m++)
        if (has_turn(value, stride, m))
            state->last[(size_t)m * state->heads + h] = value[(size_t)m * stride];
}

static void add_last(struct layer_state *state, const struct measured *measured, uint32_t h,
                     uint32_t to, uint64_t arrival)
{
    double value[METRIC_COUNT];
    if (arrival < state->last_arrival[to])
        return;
    state->last_arrival[to] = arrival;
    for (int m = 0; m < METRIC_COUNT; m++)
        value[m] = measured->value[m] ? measured->value[m][h] : NAN;
    set_last(state, to, value, 1);
    state->pattern[to] = measured->pattern ? measured->pattern[h] : PATTERN_NONE;
    add_last_vectors(state, measured, h, to);
}

static int add_heads(struct layer_state *state, const struct message *message,
                     const struct measured *measured)
{
    int code = 0;
    for (uint32_t h = 0; h < message->header.heads && !code; h++) {
        uint32_t to = message->header.head_offset + h;
        code = add_head(state, measured, h, to);
        add_last(state, measured, h, to, message->arrival);
    }
    return code;
}

static int add_aggregate(struct layer_state *state, const struct measured *measured)
{
    int code = dist_add(&state->sink_rate, measured->sink_rate);
    for (int a = 0; a < AGGREGATE_COUNT; a++)
        for (int s = 0; measured->has_aggregate[a] && s < MAP_STAT_COUNT && !code; s++)
            code = dist_add(&state->aggregate[a][s], measured->aggregate[a][s]);
    return code;
}

/* Which numbers there are at all. */
static void add_kinds(struct layer_state *state, const struct measured *measured)
{
    for (int m = 0; m < METRIC_COUNT; m++)
        state->on[m] = state->on[m] || measured->value[m];
    for (int a = 0; a < AGGREGATE_COUNT; a++)
        state->has_aggregate[a] = state->has_aggregate[a] || measured->has_aggregate[a];
    for (int v = 0; v < VECTOR_COUNT; v++)
        state->has_vector[v] = state->has_vector[v] || measured->vector[v];
}

static int add_rows(struct layer_state *state, const struct message *message,
                    const struct measured *measured)
{
    add_kinds(state, measured);
    int code = add_heads(state, message, measured);
    if (!code)
        code = add_aggregate(state, measured);
    if (!code && message->arrival > state->newest)
        code = add_newest(state, message, measured);
    return code;
}

/* Of tier weights nothing is pooled. */
static int add_weights(struct layer_state *state, const struct message *message,
                       const struct measured *measured)
{
    return message->arrival > state->weights_arrival ? add_newest_weights(state, message, measured)
                                                     : 0;
}

int layer_state_add(struct layer_state *state, const struct message *message,
                    const struct measured *measured)
{
    int code = mark_rank(state, message->rank_index);
    if (!code)
        code = message->header.type == MESSAGE_WEIGHTS ? add_weights(state, message, measured)
                                                       : add_rows(state, message, measured);
    if (!code)
        add_counts(state, measured);
    return code;
}

/* Merging parts */

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
    set_last(into, h, from->last + h, from->heads);
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
    int code = reserve_ranks(into, from->rank_bytes);
    for (uint32_t i = 0; i < from->rank_bytes && !code; i++)
        into->rank_bits[i] |= from->rank_bits[i];
    return code;
}

static int merge_stat(struct layer_state *into, const struct layer_state *from, int metric)
{
    if (!from->stat[metric])
        return 0;
    int code = reserve_stat(into, metric);
    for (uint32_t h = 0; h < into->heads && !code; h++)
        code = dist_merge(&into->stat[metric][h], &from->stat[metric][h]);
    return code;
}

static int merge_vector(struct layer_state *into, const struct layer_state *from, int vector)
{
    if (!from->vector[vector])
        return 0;
    int code = reserve_vector(into, vector);
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
    struct result_stat *metrics; /* [METRIC_COUNT][heads] */
    struct result_stat *vectors; /* by vector: [heads][width] */
    struct result_stat aggregate[AGGREGATE_COUNT][MAP_STAT_COUNT];
    struct result_stat sink_rate;
    struct reason_count dropped[TALLY_REASONS_MAX];
    uint32_t dropped_count;
};

static void fill_metric(const struct layer_state *state, int metric, struct result_stat *stats)
{
    const struct dist empty = {0};
    for (uint32_t h = 0; h < state->heads; h++) {
        const struct dist *dist = state->stat[metric] ? &state->stat[metric][h] : &empty;
        stats[h] = stat_of(dist, state->last[(size_t)metric * state->heads + h]);
    }
}

static void fill_vector(const struct layer_state *state, int vector, struct result_stat *stats)
{
    const struct vector_info *info = &vector_info[vector];
    const struct moments empty = {0};
    for (uint32_t h = 0; h < state->heads; h++) {
        for (uint32_t i = 0; i < info->width; i++) {
            size_t at = (size_t)h * info->width + i;
            size_t last = (size_t)h * VECTORS_WIDTH + info->offset + i;
            stats[at] = state->vector[vector]
                            ? stat_of_moments(&state->vector[vector][at], state->vector_last[last])
                            : stat_of_moments(&empty, NAN);
        }
    }
}

static int summary_stats_new(const struct layer_state *state, struct summary_stats *stats)
{
    stats->metrics = malloc(stats_count(state) * sizeof *stats->metrics);
    stats->vectors = malloc(vectors_count(state) * sizeof *stats->vectors);
    if (!stats->metrics || !stats->vectors)
        return ERR_MEMORY;
    for (int m = 0; m < METRIC_COUNT; m++)
        fill_metric(state, m, stats->metrics + (size_t)m * state->heads);
    for (int v = 0; v < VECTOR_COUNT; v++)
        fill_vector(state, v, stats->vectors + (size_t)vector_info[v].offset * state->heads);
    for (int a = 0; a < AGGREGATE_COUNT; a++)
        for (int s = 0; s < MAP_STAT_COUNT; s++)
            stats->aggregate[a][s] = stat_of(&state->aggregate[a][s], state->aggregate_last[a][s]);
    stats->sink_rate = stat_of(&state->sink_rate, state->sink_rate_last);
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
        .tier = state->tier,
    };
    memcpy(result->layer.shape, state->shape, sizeof state->shape);
    result->ranks = layer_state_ranks(state);
    result->messages = state->messages;
    result->lost = state->tally.lost;
    result->heads = state->heads;
    result->local_window = state->local_window;
    if (state->detail) {
        result->pairs = state->detail->pairs;
        result->similarity = state->detail->similarity;
    }
    result->weights = state->weights ? &state->weights->weights : NULL;
}

static void attach_stats(const struct layer_state *state, const struct summary_stats *stats,
                         struct summary_result *result)
{
    for (size_t m = 0; m < METRIC_COUNT; m++)
        result->stat[m] = state->on[m] ? &stats->metrics[m * state->heads] : NULL;
    for (size_t v = 0; v < VECTOR_COUNT; v++)
        result->vector[v] = state->has_vector[v]
                                ? stats->vectors + (size_t)vector_info[v].offset * state->heads
                                : NULL;
    memcpy(result->has_aggregate, state->has_aggregate, sizeof result->has_aggregate);
    result->aggregate = stats->aggregate;
    result->pattern = state->on[METRIC_ENTROPY] ? state->pattern : NULL;
    result->sink_rate = state->on[METRIC_FIRST_TOKEN] ? &stats->sink_rate : NULL;
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
    free(stats.vectors);
    return code;
}
