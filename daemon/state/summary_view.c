/* SPDX-License-Identifier: MIT */
/* A state as a summary: the statistics of each number, worked out once. */
#include "daemon/state/layer_state_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The statistics of a state, in the layout that summary_encode wants. */
struct summary_stats {
    struct result_stat *metric[METRIC_COUNT]; /* [heads]; NULL = is off */
    struct result_stat *vector[VECTOR_COUNT]; /* [heads][width]; NULL = is off */
    struct result_stat aggregate[AGGREGATE_COUNT][MAP_STAT_COUNT];
    struct result_stat sink_rate;
    enum pattern *pattern; /* [heads] */
    double *invalid_share; /* [heads] */
    struct reason_count dropped[TALLY_REASONS_MAX];
    uint32_t dropped_count;
    struct result_stat numbers[]; /* the lists above point behind here */
};

static const struct result_stat no_stat = {.mean = NAN,
                                           .std = NAN,
                                           .min = NAN,
                                           .max = NAN,
                                           .p10 = NAN,
                                           .p50 = NAN,
                                           .p90 = NAN,
                                           .p99 = NAN,
                                           .last = NAN};

static struct result_stat stat_of_moments(const struct stat_record *stat)
{
    const struct moments *m = &stat->moments;
    struct result_stat result = no_stat;
    result.mean = moments_mean(m);
    result.std = moments_std(m);
    result.min = m->n ? m->min : NAN;
    result.max = m->n ? m->max : NAN;
    result.last = stat->last;
    result.count = m->n;
    return result;
}

/* `dist` is for the histogram; *error becomes that of the coarsest so far. */
static int summary_view_stat_of(const struct stat_record *stat, struct dist *dist, double *error,
                                struct result_stat *ret_result)
{
    int code = stat_dist(stat, dist);
    if (code) {
        return code;
    }
    *ret_result = stat_of_moments(stat);
    ret_result->p10 = dist_quantile(dist, 0.10);
    ret_result->p50 = dist_quantile(dist, 0.50);
    ret_result->p90 = dist_quantile(dist, 0.90);
    ret_result->p99 = dist_quantile(dist, 0.99);
    if (stat->moments.n > 0) {
        *error = fmax(*error, dist_quantile_error(dist));
    }
    return 0;
}

static int stat_in(const struct stat_set *set, uint32_t slot, struct result_stat *ret_stat)
{
    struct stat_record stat = stat_find(set, slot);
    struct dist dist = {0};
    double error = NAN;
    int code = summary_view_stat_of(&stat, &dist, &error, ret_stat);
    dist_clear(&dist);
    return code;
}

/* One value, which is the newest. */
static struct result_stat summary_view_matrix(const struct layer_state *state, int metric,
                                              uint32_t head)
{
    double x = layer_state_matrix_number(state, metric, head);
    struct result_stat stat = {x, NAN, x, x, x, x, x, x, x, 1};
    return isfinite(x) ? stat : no_stat;
}

int layer_state_stat(const struct layer_state *state, int metric, uint32_t head,
                     struct result_stat *ret_stat)
{
    if (metric >= METRIC_MATRIX_FIRST) {
        *ret_stat = summary_view_matrix(state, metric, head);
        return 0;
    }
    return stat_in(&state->head[head].stats, (uint32_t)metric, ret_stat);
}

struct result_stat layer_state_stat_of_moments(const struct layer_state *state, int metric,
                                               uint32_t head)
{
    if (metric >= METRIC_MATRIX_FIRST) {
        return summary_view_matrix(state, metric, head);
    }
    struct stat_record stat = stat_find(&state->head[head].stats, (uint32_t)metric);
    return stat_of_moments(&stat);
}

int layer_state_map_stat(const struct layer_state *state, int aggregate, int stat,
                         struct result_stat *ret_stat)
{
    return stat_in(&state->across, layer_aggregate_slot(aggregate, stat), ret_stat);
}

int layer_state_sink_rate(const struct layer_state *state, struct result_stat *ret_stat)
{
    return stat_in(&state->across, LAYER_SLOT_SINK_RATE, ret_stat);
}

/* Where the statistics of a head's slot belong; NULL: nowhere. */
static struct result_stat *summary_view_place(const struct summary_stats *stats, uint32_t slot,
                                              uint32_t h)
{
    if (slot < METRIC_MATRIX_FIRST) {
        return stats->metric[slot] ? stats->metric[slot] + h : NULL;
    }
    for (int v = VECTOR_COUNT - 1; v >= 0; v--) {
        uint32_t first = layer_vector_slot(v, 0);
        if (slot >= first) {
            return stats->vector[v]
                       ? stats->vector[v] + (size_t)h * vector_info[v].width + (slot - first)
                       : NULL;
        }
    }
    return NULL;
}

static int fill_across(const struct layer_state *state, struct dist *dist,
                       struct summary_stats *stats, double *error)
{
    for (uint32_t slot = 0; slot < LAYER_SLOTS_ACROSS; slot++) {
        struct stat_record stat = stat_find(&state->across, slot);
        struct result_stat *to =
            slot == LAYER_SLOT_SINK_RATE
                ? &stats->sink_rate
                : &stats->aggregate[slot / MAP_STAT_COUNT][slot % MAP_STAT_COUNT];
        int code = summary_view_stat_of(&stat, dist, error, to);
        if (code) {
            return code;
        }
    }
    return 0;
}

/* With room for what there is; NULL when out of memory. */
static struct summary_stats *summary_view_reserve(const struct layer_state *state)
{
    size_t heads = state->heads, count = VECTORS_WIDTH * heads;
    for (int m = 0; m < METRIC_COUNT; m++) {
        count += state->on[m] ? heads : 0;
    }
    struct summary_stats *stats =
        calloc(1, sizeof *stats + count * sizeof *stats->numbers +
                      heads * (sizeof *stats->invalid_share + sizeof *stats->pattern));
    if (!stats) {
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        stats->numbers[i] = no_stat;
    }
    for (int v = 0; v < VECTOR_COUNT; v++) {
        stats->vector[v] =
            state->has_vector[v] ? stats->numbers + vector_info[v].offset * heads : NULL;
    }
    struct result_stat *next = stats->numbers + VECTORS_WIDTH * heads;
    for (int m = 0; m < METRIC_COUNT; m++) {
        stats->metric[m] = state->on[m] ? next : NULL;
        next += state->on[m] ? heads : 0;
    }
    stats->invalid_share = (double *)(void *)next;
    stats->pattern = (enum pattern *)(void *)(stats->invalid_share + heads);
    return stats;
}

static int summary_view_fill(const struct layer_state *state, struct summary_stats *stats,
                             double *error)
{
    struct dist dist = {0};
    int code = 0;
    for (uint32_t h = 0; h < state->heads && !code; h++) {
        struct stat_reader reader;
        struct stat_record stat;
        uint32_t slot;
        stat_reader_init(&reader, &state->head[h].stats);
        while (!code && stat_read(&reader, &slot, &stat)) {
            struct result_stat *to = summary_view_place(stats, slot, h);
            if (to && slot < STAT_HISTS) {
                code = summary_view_stat_of(&stat, &dist, error, to);
            } else if (to) {
                *to = stat_of_moments(&stat);
            }
        }
        for (int m = METRIC_MATRIX_FIRST; m < METRIC_COUNT; m++) {
            if (stats->metric[m]) {
                stats->metric[m][h] = summary_view_matrix(state, m, h);
            }
        }
    }
    if (!code) {
        code = fill_across(state, &dist, stats, error);
    }
    for (uint32_t h = 0; h < state->heads && !code; h++) {
        const struct result_stat *entropy = stats->metric[METRIC_ENTROPY];
        double invalid = (double)state->head[h].invalid_rows;
        stats->pattern[h] = (enum pattern)state->head[h].pattern;
        stats->invalid_share[h] = invalid / (invalid + (entropy ? (double)entropy[h].count : 0));
    }
    stats->dropped_count = tally_reasons(&state->tally, stats->dropped);
    dist_clear(&dist);
    return code;
}

static void attach_stats(const struct layer_state *state, const struct summary_stats *stats,
                         struct summary_result *result)
{
    for (int m = 0; m < METRIC_COUNT; m++) {
        result->stat[m] = stats->metric[m];
    }
    for (int i = 0; i < VECTOR_COUNT; i++) {
        result->vector[i] = stats->vector[i];
    }
    memcpy(result->has_aggregate, state->has_aggregate, sizeof result->has_aggregate);
    result->aggregate = stats->aggregate;
    result->sink_rate = state->on[METRIC_FIRST_TOKEN] ? &stats->sink_rate : NULL;
    result->pattern = state->on[METRIC_ENTROPY] ? stats->pattern : NULL;
    result->invalid_share = state->on[METRIC_ENTROPY] ? stats->invalid_share : NULL;
    result->dropped = stats->dropped;
    result->dropped_count = stats->dropped_count;
}

struct result_layer layer_state_describe(const struct layer_state *state, struct layer_id id)
{
    struct result_layer layer = {
        .id = id,
        .causal = state->causal,
        .rows = state->rows,
        .rows_of = state->rows_of,
        .invalid_rows = state->invalid_rows,
        .row_sum_error = state->row_sum_error,
        .tier = state->tier,
    };
    memcpy(layer.shape, state->shape, sizeof state->shape);
    return layer;
}

int summary_view_init(struct summary_view *view, const struct layer_state *state,
                      struct layer_id id, const char *job, const uint8_t *run,
                      const struct result_window *window)
{
    struct summary_stats *stats = summary_view_reserve(state);
    *view = (struct summary_view){
        .result = {.common = {job, run, state->epoch, state->step, state->time_ns},
                   .window = *window,
                   .quantile_error = NAN},
        .stats = stats,
    };
    int code = stats ? summary_view_fill(state, stats, &view->result.quantile_error) : ERR_MEMORY;
    if (code) {
        summary_view_clear(view);
        return code;
    }
    view->result.layer = layer_state_describe(state, id);
    view->result.ranks = layer_state_ranks(state);
    view->result.messages = state->messages;
    view->result.lost = state->tally.lost;
    view->result.heads = state->heads;
    view->result.local_window = state->local_window;
    if (state->detail) {
        view->result.pairs = state->detail->pairs;
        view->result.similarity = state->detail->similarity;
    }
    view->result.weights = state->weights ? state->weights->weights : NULL;
    attach_stats(state, stats, &view->result);
    return 0;
}

void summary_view_clear(struct summary_view *view)
{
    free(view->stats);
    *view = (struct summary_view){0};
}
