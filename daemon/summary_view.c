/* SPDX-License-Identifier: MIT */
/* A state as a summary: the statistics of each number, worked out once. */
#include "layer_state.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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

static int stats_fill(const struct layer_state *state, struct summary_stats *stats)
{
    stats->metrics = malloc(((size_t)METRIC_COUNT * state->heads) * sizeof *stats->metrics);
    stats->vectors = malloc(((size_t)VECTORS_WIDTH * state->heads) * sizeof *stats->vectors);
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
    result->weights = state->weights ? state->weights->weights : NULL;
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

/* Of the coarsest histogram; NaN when there is none. */
static double quantile_error(const struct layer_state *state)
{
    double error = NAN;
    for (int m = 0; m < METRIC_COUNT; m++)
        for (uint32_t h = 0; state->stat[m] && h < state->heads; h++)
            if (state->stat[m][h].moments.n > 0)
                error = fmax(error, dist_quantile_error(&state->stat[m][h]));
    return error;
}

int summary_view_init(struct summary_view *view, const struct layer_state *state,
                      struct layer_id id, const char *job, const uint8_t *run,
                      const struct result_window *window)
{
    struct summary_stats *stats = calloc(1, sizeof *stats);
    *view = (struct summary_view){
        .result = {.common = {job, run, state->epoch, state->step, state->time_ns},
                   .window = *window,
                   .quantile_error = quantile_error(state)},
        .stats = stats,
    };
    int code = stats ? stats_fill(state, stats) : ERR_MEMORY;
    if (code) {
        summary_view_clear(view);
        return code;
    }
    stats->dropped_count = tally_reasons(&state->tally, stats->dropped);
    describe_layer(state, id, &view->result);
    attach_stats(state, stats, &view->result);
    return 0;
}

void summary_view_clear(struct summary_view *view)
{
    if (view->stats) {
        free(view->stats->metrics);
        free(view->stats->vectors);
    }
    free(view->stats);
    *view = (struct summary_view){0};
}
