/* SPDX-License-Identifier: MIT */
#include "layer_state_part.h"

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

struct layer_state *layer_state_new(uint32_t heads, uint32_t buckets)
{
    struct layer_state *state = calloc(1, sizeof *state);
    if (!state)
        return NULL;
    state->heads = heads;
    state->buckets = buckets;
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
    detail_release(&state->map);
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
    bytes += state->map ? state->map->bytes : 0;
    bytes += state->weights ? state->weights->bytes : 0;
    return bytes + hist_bytes(&state->sink_rate);
}

/* Ranks */

int layer_state_reserve_ranks(struct layer_state *state, uint32_t bytes)
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
    int code = layer_state_reserve_ranks(state, rank_index / 8 + 1);
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

static int add_map(struct layer_state *state, const struct message *message,
                   const struct measured *measured)
{
    struct detail *map = detail_map_new(measured->map, &message->header);
    if (!map)
        return ERR_MEMORY;
    detail_release(&state->map);
    state->map = map;
    return 0;
}

static int add_newest(struct layer_state *state, const struct message *message,
                      const struct measured *measured)
{
    if (measured->map && add_map(state, message, measured) != 0)
        return ERR_MEMORY;
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

int layer_state_reserve_stat(struct layer_state *state, int metric)
{
    if (!state->stat[metric])
        state->stat[metric] = calloc(state->heads, sizeof *state->stat[metric]);
    return state->stat[metric] ? 0 : ERR_MEMORY;
}

int layer_state_reserve_vector(struct layer_state *state, int vector)
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
    int code = layer_state_reserve_stat(state, m);
    if (code)
        return code;
    struct dist *stat = &state->stat[m][to];
    code = is_row ? dist_merge(stat, &measured->head[h].row[m])
                  : dist_add(stat, measured->value[m][h]);
    dist_limit(stat, state->buckets);
    return code;
}

static int add_vector(struct layer_state *state, const double *values, int v, uint32_t to)
{
    const struct vector_info *info = &vector_info[v];
    int code = layer_state_reserve_vector(state, v);
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

void layer_state_set_last(struct layer_state *state, uint32_t h, const double *value, size_t stride)
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
    layer_state_set_last(state, to, value, 1);
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
    dist_limit(&state->sink_rate, state->buckets);
    for (int a = 0; a < AGGREGATE_COUNT; a++)
        for (int s = 0; measured->has_aggregate[a] && s < MAP_STAT_COUNT && !code; s++) {
            code = dist_add(&state->aggregate[a][s], measured->aggregate[a][s]);
            dist_limit(&state->aggregate[a][s], state->buckets);
        }
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

/* One head */

int layer_state_dist(const struct layer_state *state, int metric, uint32_t head,
                     struct dist *ret_dist)
{
    struct dist copy = {0};
    if (state->stat[metric] && dist_merge(&copy, &state->stat[metric][head]) < 0)
        return ERR_MEMORY;
    *ret_dist = copy;
    return 0;
}

struct moments layer_state_moments(const struct layer_state *state, int metric, uint32_t head)
{
    return state->stat[metric] ? state->stat[metric][head].moments : (struct moments){0};
}
