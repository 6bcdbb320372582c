/* SPDX-License-Identifier: MIT */
/* The statistics of a layer's numbers over a window. */
#include "proto/result_internal.h"

/* The numbers of a result_stat, in order; `count` follows them. */
static const struct {
    const char *name;
    size_t offset;
    bool percentile;
} stat_fields[] = {
    {"mean", offsetof(struct result_stat, mean), false},
    {"std", offsetof(struct result_stat, std), false},
    {"min", offsetof(struct result_stat, min), false},
    {"max", offsetof(struct result_stat, max), false},
    {"p10", offsetof(struct result_stat, p10), true},
    {"p50", offsetof(struct result_stat, p50), true},
    {"p90", offsetof(struct result_stat, p90), true},
    {"p99", offsetof(struct result_stat, p99), true},
    {"last", offsetof(struct result_stat, last), false},
};
enum { STAT_FIELDS = sizeof stat_fields / sizeof stat_fields[0], STAT_PERCENTILES = 4 };

static double stat_field(const struct result_stat *stat, unsigned field)
{
    return *(const double *)(const void *)((const char *)stat + stat_fields[field].offset);
}

static void put_stat(struct mpk_writer *writer, const struct result_stat *stat)
{
    mpk_put_map(writer, STAT_FIELDS + 1);
    for (unsigned f = 0; f < STAT_FIELDS; f++) {
        mpk_pair_f64(writer, stat_fields[f].name, stat_field(stat, f));
    }
    mpk_pair_u64(writer, "count", stat->count);
}

/* One array over the heads per statistic. */
static void put_head_stats(struct mpk_writer *writer, const struct result_stat *stats,
                           uint32_t heads)
{
    mpk_put_map(writer, STAT_FIELDS + 1);
    for (unsigned f = 0; f < STAT_FIELDS; f++) {
        mpk_pair_array(writer, stat_fields[f].name, heads);
        for (uint32_t h = 0; h < heads; h++) {
            mpk_put_f64(writer, stat_field(&stats[h], f));
        }
    }
    mpk_pair_array(writer, "count", heads);
    for (uint32_t h = 0; h < heads; h++) {
        mpk_put_u64(writer, stats[h].count);
    }
}

static void result_summary_put_stats(struct mpk_writer *writer,
                                     const struct summary_result *summary, bool spectrum)
{
    for (unsigned i = 0; i < METRIC_COUNT; i++) {
        if (!summary->stat[i] || metric_in_spectrum(i) != spectrum) {
            continue;
        }
        mpk_put_str(writer, metric_info[i].name);
        put_head_stats(writer, summary->stat[i], summary->heads);
    }
}

/* One head's list, as far as any number was seen in it; `field` STAT_FIELDS is the count. */
static void put_vector_row(struct mpk_writer *writer, enum vector vector,
                           const struct result_stat *row, unsigned field)
{
    uint32_t length = vector_info[vector].width;
    while (vector_info[vector].ends && length > 0 && row[length - 1].count == 0) {
        length--;
    }
    mpk_put_array(writer, length);
    for (uint32_t i = 0; i < length; i++) {
        if (field == STAT_FIELDS) {
            mpk_put_u64(writer, row[i].count);
        } else {
            mpk_put_f64(writer, stat_field(&row[i], field));
        }
    }
}

static void result_summary_put_vector(struct mpk_writer *writer,
                                      const struct summary_result *summary, enum vector vector)
{
    mpk_pair_map(writer, vector_info[vector].name, STAT_FIELDS + 1 - STAT_PERCENTILES);
    for (unsigned f = 0; f <= STAT_FIELDS; f++) {
        if (f < STAT_FIELDS && stat_fields[f].percentile) {
            continue;
        }
        mpk_pair_array(writer, f < STAT_FIELDS ? stat_fields[f].name : "count", summary->heads);
        for (uint32_t h = 0; h < summary->heads; h++) {
            put_vector_row(writer, vector,
                           summary->vector[vector] + (size_t)h * vector_info[vector].width, f);
        }
    }
}

static void result_summary_put_spectrum(struct mpk_writer *writer,
                                        const struct summary_result *summary)
{
    struct mpk_open spectrum = mpk_open(writer, "spectrum");
    result_summary_put_stats(writer, summary, true);
    for (unsigned v = 0; v < VECTOR_COUNT; v++) {
        if (summary->vector[v]) {
            result_summary_put_vector(writer, summary, (enum vector)v);
        }
    }
    mpk_close_map_if_any(writer, &spectrum);
}

/* The differences from the baseline, and the time since when they exist. */
static const struct {
    const char *name;
    size_t offset;
    bool of_rows; /* only row metrics have it */
} drift_fields[] = {
    {"delta", offsetof(struct result_drift, delta), false},
    {"shift", offsetof(struct result_drift, shift), false},
    {"js", offsetof(struct result_drift, js), true},
    {"change", offsetof(struct result_drift, change), false},
};
enum { DRIFT_FIELDS = sizeof drift_fields / sizeof drift_fields[0], DRIFT_OF_ROWS = 1 };

static void result_summary_put_metric_drift(struct mpk_writer *writer,
                                            const struct result_drift *drift, uint32_t heads,
                                            bool is_row)
{
    mpk_put_map(writer, DRIFT_FIELDS - (is_row ? 0 : DRIFT_OF_ROWS));
    for (unsigned f = 0; f < DRIFT_FIELDS; f++) {
        if (drift_fields[f].of_rows && !is_row) {
            continue;
        }
        mpk_pair_array(writer, drift_fields[f].name, heads);
        for (uint32_t h = 0; h < heads; h++) {
            const char *head = (const char *)&drift[h];
            mpk_put_f64(writer, *(const double *)(const void *)(head + drift_fields[f].offset));
        }
    }
}

static void result_summary_put_drift(struct mpk_writer *writer,
                                     const struct summary_result *summary)
{
    struct mpk_open drift = mpk_open(writer, "drift");
    for (unsigned i = 0; i < METRIC_COUNT; i++) {
        if (!summary->drift[i]) {
            continue;
        }
        mpk_put_str(writer, metric_info[i].name);
        result_summary_put_metric_drift(writer, summary->drift[i], summary->heads,
                                        metric_info[i].kind == METRIC_KIND_ROW);
    }
    mpk_close_map_if_any(writer, &drift);
}

static void result_summary_put_window(struct mpk_writer *writer, const struct result_window *window)
{
    mpk_pair_map(writer, "window", 6);
    mpk_pair_str(writer, "unit", window_unit_name(window->unit));
    mpk_pair_u64(writer, "first", window->first);
    mpk_pair_u64(writer, "last", window->last);
    mpk_pair_u64(writer, "length", window->length);
    mpk_pair_u64(writer, "every", window->every);
    mpk_pair_bool(writer, "partial", window->partial);
}

void summary_encode(const struct summary_result *summary, struct mpk_writer *writer)
{
    struct mpk_open map = mpk_open(writer, NULL);
    part_common(writer, "summary", &summary->common);
    part_layer(writer, &summary->layer);
    result_summary_put_window(writer, &summary->window);
    if (summary->track > 0) {
        mpk_pair_u64(writer, "track", summary->track);
    }
    mpk_pair_u64(writer, "ranks", summary->ranks);
    mpk_pair_u64(writer, "messages", summary->messages);
    mpk_pair_u64(writer, "lost", summary->lost);
    part_dropped(writer, summary->dropped, summary->dropped_count);
    struct mpk_open heads = mpk_open(writer, "heads");
    result_summary_put_stats(writer, summary, false);
    if (summary->pattern) {
        mpk_pair_map(writer, "pattern", 1);
        part_pattern(writer, "last", summary->pattern, summary->heads);
    }
    mpk_close_map(writer, &heads);
    if (summary->quantile_error > 0) { /* no histogram is exact */
        mpk_pair_f64(writer, "quantile_error", summary->quantile_error);
    }
    if (summary->stat[METRIC_LOCAL_MASS]) {
        mpk_pair_u64(writer, "local_window", summary->local_window);
    }
    if (summary->sink_rate) {
        mpk_put_str(writer, "sink_rate");
        put_stat(writer, summary->sink_rate);
    }
    struct mpk_open aggregates = mpk_open(writer, "aggregate");
    for (unsigned a = 0; a < AGGREGATE_COUNT; a++) {
        if (!summary->has_aggregate[a]) {
            continue;
        }
        mpk_pair_map(writer, aggregate_name[a], MAP_STAT_COUNT);
        for (unsigned s = 0; s < MAP_STAT_COUNT; s++) {
            mpk_put_str(writer, map_stat_name[s]);
            put_stat(writer, &summary->aggregate[a][s]);
        }
    }
    mpk_close_map_if_any(writer, &aggregates);
    result_summary_put_spectrum(writer, summary);
    result_summary_put_drift(writer, summary);
    /* Numbers without statistics are the newest message's own. */
    part_pairs(writer, &summary->pairs, summary->heads);
    part_similarity(writer, "similarity", &summary->similarity, summary->heads);
    part_weights(writer, summary->weights);
    if (summary->nodes) {
        mpk_pair_u64(writer, "nodes", summary->nodes);
        mpk_pair_u64(writer, "revision", summary->revision);
        mpk_pair_array(writer, "missing", summary->missing_count);
        for (uint32_t i = 0; i < summary->missing_count; i++) {
            mpk_put_map(writer, 2);
            mpk_pair_str(writer, "node", summary->missing[i].name);
            mpk_pair_str(writer, "reason", summary->missing[i].reason);
        }
    }
    mpk_pair_bool(writer, "snapshot", false);
    mpk_close_map(writer, &map);
}
