/* SPDX-License-Identifier: MIT */
/* Keys are written in PROTOCOL.md's order; `snapshot` is last (see result.h). */
#include "proto/header_internal.h"
#include "proto/result.h"

#include <math.h>

static void result_part_put_reals(struct mpk_writer *writer, const double *list, uint32_t length)
{
    mpk_put_array(writer, length);
    for (uint32_t i = 0; i < length; i++) {
        mpk_put_f64(writer, list[i]);
    }
}

static void part_list(struct mpk_writer *writer, const char *key, const double *list,
                      uint32_t length)
{
    mpk_put_str(writer, key);
    result_part_put_reals(writer, list, length);
}

static double part_number(const void *of, size_t offset)
{
    return *(const double *)(const void *)((const char *)of + offset);
}

/* A list of the same number of each of `count` structs of `size` bytes; `first` is that of the
 * first. */
static void part_column(struct mpk_writer *writer, const char *key, const void *first, size_t size,
                        uint32_t count)
{
    mpk_pair_array(writer, key, count);
    for (uint32_t i = 0; i < count; i++) {
        mpk_put_f64(writer, part_number(first, i * size));
    }
}

static void part_matrix(struct mpk_writer *writer, const char *key, const double *matrix,
                        uint32_t rows, uint32_t columns)
{
    mpk_pair_array(writer, key, rows);
    for (uint32_t i = 0; i < rows; i++) {
        result_part_put_reals(writer, matrix + (size_t)i * columns, columns);
    }
}

/* The values of one head's vector as a list. */
static void part_vector_row(struct mpk_writer *writer, enum vector vector, const double *row)
{
    uint32_t length = vector_info[vector].width;
    while (vector_info[vector].ends && length > 0 && isnan(row[length - 1])) {
        length--;
    }
    result_part_put_reals(writer, row, length);
}

/* ---- keys of all, and of layers ---- */

void run_hex(const uint8_t run[RUN_BYTES], char ret_hex[2 * RUN_BYTES + 1])
{
    static const char digits[] = "0123456789abcdef";
    for (unsigned i = 0; i < RUN_BYTES; i++) {
        ret_hex[2 * i] = digits[run[i] >> 4];
        ret_hex[2 * i + 1] = digits[run[i] & 15];
    }
    ret_hex[2 * RUN_BYTES] = '\0';
}

static void part_common(struct mpk_writer *writer, const char *kind,
                        const struct result_common *common)
{
    char run[2 * RUN_BYTES + 1];
    run_hex(common->run, run);
    mpk_pair_u64(writer, "v", PROTO_VERSION);
    mpk_pair_str(writer, "kind", kind);
    mpk_pair_str(writer, "job", common->job);
    mpk_pair_str(writer, "run", run);
    mpk_pair_u64(writer, "epoch", common->epoch);
    mpk_pair_u64(writer, "step", common->step);
    mpk_pair_u64(writer, "time_ns", common->time_ns);
}

/* One key, when the module is known. */
static void part_module(struct mpk_writer *writer, const char *module)
{
    if (module) {
        mpk_pair_str(writer, "module", module);
    }
}

/* Matrices have no [B, H, Tq, Tk]. */
static void result_part_put_shape(struct mpk_writer *writer, const struct result_layer *layer)
{
    mpk_put_str(writer, "shape");
    if (layer->tier == MESSAGE_WEIGHTS || layer->tier == MESSAGE_SKETCH) {
        mpk_put_nil(writer);
        return;
    }
    mpk_put_array(writer, 4);
    for (unsigned i = 0; i < 4; i++) {
        mpk_put_u64(writer, layer->shape[i]);
    }
}

static void part_layer_state(struct mpk_writer *writer, const struct result_layer *layer)
{
    mpk_pair_str(writer, "tier", message_type_name(layer->tier));
    result_part_put_shape(writer, layer);
    mpk_pair_bool(writer, "causal", layer->causal);
    mpk_pair_u64(writer, "rows", layer->rows);
    if (layer->rows_of > layer->rows) {
        mpk_pair_u64(writer, "rows_of", layer->rows_of);
    }
    mpk_pair_u64(writer, "invalid_rows", layer->invalid_rows);
    mpk_pair_f64(writer, "row_sum_error", layer->row_sum_error);
}

/* part_layer_state: without the identity and the module. */
static void part_layer(struct mpk_writer *writer, const struct result_layer *layer)
{
    header_put_layer(writer, layer->id);
    part_module(writer, layer->module);
    part_layer_state(writer, layer);
}

static void part_dropped(struct mpk_writer *writer, const struct reason_count *dropped,
                         uint32_t count)
{
    mpk_pair_map(writer, "dropped", count);
    for (uint32_t i = 0; i < count; i++) {
        mpk_pair_u64(writer, dropped[i].reason, dropped[i].count);
    }
}

/* ---- pairs, similarity, patterns ---- */

static void put_pair_list(struct mpk_writer *writer, const struct pair *pairs, uint32_t count)
{
    mpk_put_array(writer, count);
    for (uint32_t i = 0; i < count; i++) {
        mpk_put_map(writer, 3);
        mpk_pair_u64(writer, "query", pairs[i].query);
        mpk_pair_u64(writer, "key", pairs[i].key);
        mpk_pair_f64(writer, "weight", pairs[i].weight);
    }
}

/* `top_pairs` and `head_top_pairs`. */
static void part_pairs(struct mpk_writer *writer, const struct result_pairs *pairs, uint32_t heads)
{
    if (pairs->pairs) {
        mpk_put_str(writer, "top_pairs");
        put_pair_list(writer, pairs->pairs, pairs->count);
    }
    if (!pairs->head_pairs) {
        return;
    }
    mpk_pair_array(writer, "head_top_pairs", heads);
    for (uint32_t h = 0; h < heads; h++) {
        put_pair_list(writer, pairs->head_pairs + (size_t)h * pairs->head_limit,
                      pairs->head_count[h]);
    }
}

/* When there is a similarity: its keys, and with `key` a map of them under that. */
static void part_similarity(struct mpk_writer *writer, const char *key,
                            const struct result_similarity *similarity, uint32_t heads)
{
    if (!similarity->cosine) {
        return;
    }
    if (key) {
        mpk_pair_map(writer, key, 4);
    }
    part_matrix(writer, "head_similarity", similarity->cosine, heads, heads);
    part_matrix(writer, "head_js", similarity->js, heads, heads);
    mpk_pair_array(writer, "redundant_pairs", similarity->redundant_count);
    for (uint32_t i = 0; i < similarity->redundant_count; i++) {
        mpk_put_map(writer, 2);
        mpk_pair_array(writer, "heads", 2);
        mpk_put_u64(writer, similarity->redundant[i].g);
        mpk_put_u64(writer, similarity->redundant[i].h);
        mpk_pair_f64(writer, "js", similarity->redundant[i].js);
    }
    mpk_pair_u64(writer, "redundant_total", similarity->redundant_total);
}

/* A list of names, nil where a head has none. */
static void part_pattern(struct mpk_writer *writer, const char *key, const enum pattern *pattern,
                         uint32_t heads)
{
    mpk_pair_array(writer, key, heads);
    for (uint32_t h = 0; h < heads; h++) {
        mpk_put_str(writer, pattern_name[pattern[h]]);
    }
}

/* The map under `weights`: spectra of projection matrices and of the products of two. */

/* The numbers of a spectrum that a matrix has; `singular_values` follow them. */
static const struct {
    const char *name;
    size_t offset;
} fields[] = {
    {"spectral_norm", offsetof(struct spectrum, spectral_norm)},
    {"condition_number", offsetof(struct spectrum, condition_number)},
    {"rank", offsetof(struct spectrum, rank)},
    {"effective_rank", offsetof(struct spectrum, effective_rank)},
    {"effective_rank_entropy", offsetof(struct spectrum, effective_rank_entropy)},
    {"stable_rank", offsetof(struct spectrum, stable_rank)},
    {"nuclear_norm", offsetof(struct spectrum, nuclear_norm)},
};
enum { FIELDS = sizeof fields / sizeof fields[0] };

/* One list over the heads per number. */
static void result_weights_put_heads(struct mpk_writer *writer, const struct spectrum *head,
                                     uint32_t heads)
{
    mpk_pair_map(writer, "heads", FIELDS + 1);
    for (unsigned f = 0; f < FIELDS; f++) {
        part_column(writer, fields[f].name, (const char *)head + fields[f].offset, sizeof *head,
                    heads);
    }
    mpk_pair_array(writer, "singular_values", heads);
    for (uint32_t h = 0; h < heads; h++) {
        part_vector_row(writer, VECTOR_SINGULAR_VALUES, head[h].singular_values);
    }
}

static void result_weights_put_projection(struct mpk_writer *writer, const char *name,
                                          const struct projection_result *projection)
{
    mpk_pair_map(writer, name, 4);
    mpk_pair_map(writer, "whole", FIELDS + 3);
    for (unsigned f = 0; f < FIELDS; f++) {
        mpk_pair_f64(writer, fields[f].name, part_number(&projection->whole, fields[f].offset));
    }
    mpk_put_str(writer, "singular_values");
    part_vector_row(writer, VECTOR_SINGULAR_VALUES, projection->whole.singular_values);
    mpk_pair_f64(writer, "eigenvalue_min", projection->eigenvalue_min);
    mpk_pair_f64(writer, "eigenvalue_max", projection->eigenvalue_max);
    result_weights_put_heads(writer, projection->head, projection->heads);
    part_matrix(writer, "head_correlation", projection->correlation, projection->heads,
                projection->heads);
    mpk_pair_f64(writer, "head_correlation_mean", projection->correlation_mean);
}

/* The map under `weights`; NULL: there is none. */
static void part_weights(struct mpk_writer *writer, const struct weights_result *weights)
{
    if (!weights) {
        return;
    }
    struct mpk_open map = mpk_open(writer, "weights");
    for (unsigned p = 0; p < PROJECTION_COUNT; p++) {
        if (weights->projection[p].present) {
            result_weights_put_projection(writer, projection_name[p], &weights->projection[p]);
        }
    }
    for (unsigned c = 0; c < CIRCUIT_COUNT; c++) {
        if (!weights->circuit[c]) {
            continue;
        }
        mpk_pair_map(writer, circuit_name[c], 1);
        result_weights_put_heads(writer, weights->circuit[c], weights->heads);
    }
    mpk_close_map(writer, &map);
}

/* One message's numbers of a layer, for readers (live) and for files (analysis). */

static void result_live_put_values(struct mpk_writer *writer, const struct layer_numbers *numbers,
                                   bool spectrum)
{
    for (unsigned i = 0; i < METRIC_COUNT; i++) {
        if (numbers->value[i] && metric_in_spectrum(i) == spectrum) {
            part_list(writer, metric_info[i].name, numbers->value[i], numbers->heads);
        }
    }
}

static void result_live_put_vector(struct mpk_writer *writer, const struct layer_numbers *numbers,
                                   enum vector vector)
{
    mpk_pair_array(writer, vector_info[vector].name, numbers->heads);
    for (uint32_t h = 0; h < numbers->heads; h++) {
        part_vector_row(writer, vector,
                        numbers->vector[vector] + (size_t)h * vector_info[vector].width);
    }
}

static void result_live_put_numbers(struct mpk_writer *writer, const struct layer_numbers *numbers)
{
    struct mpk_open heads = mpk_open(writer, "heads");
    result_live_put_values(writer, numbers, false);
    if (numbers->pattern) {
        part_pattern(writer, "pattern", numbers->pattern, numbers->heads);
    }
    mpk_close_map(writer, &heads);
    if (numbers->value[METRIC_LOCAL_MASS]) {
        mpk_pair_u64(writer, "local_window", numbers->local_window);
    }
    if (numbers->value[METRIC_FIRST_TOKEN]) { /* the rate is about it */
        mpk_pair_f64(writer, "sink_rate", numbers->sink_rate);
    }
    struct mpk_open aggregates = mpk_open(writer, "aggregate");
    for (unsigned a = 0; a < AGGREGATE_COUNT; a++) {
        if (!numbers->has_aggregate[a]) {
            continue;
        }
        mpk_pair_map(writer, aggregate_name[a], MAP_STAT_COUNT);
        for (unsigned s = 0; s < MAP_STAT_COUNT; s++) {
            mpk_pair_f64(writer, map_stat_name[s], numbers->aggregate[a][s]);
        }
    }
    mpk_close_map_if_any(writer, &aggregates);
    struct mpk_open spectrum = mpk_open(writer, "spectrum");
    result_live_put_values(writer, numbers, true);
    for (unsigned v = 0; v < VECTOR_COUNT; v++) {
        if (numbers->vector[v]) {
            result_live_put_vector(writer, numbers, (enum vector)v);
        }
    }
    mpk_close_map_if_any(writer, &spectrum);
    part_pairs(writer, &numbers->pairs, numbers->heads);
}

void live_encode(const struct live_result *live, struct mpk_writer *writer)
{
    const struct layer_numbers *numbers = &live->numbers;
    struct mpk_open map = mpk_open(writer, NULL);
    part_common(writer, "live", &live->common);
    part_layer(writer, &live->layer);
    mpk_pair_u64(writer, "rank", live->rank);
    result_live_put_numbers(writer, numbers);
    part_similarity(writer, "similarity", &numbers->similarity, numbers->heads);
    part_weights(writer, numbers->weights);
    if (live->sketch) {
        mpk_put_str(writer, "sketch");
        mpk_put_raw(writer, live->sketch, live->sketch_size);
    }
    mpk_pair_bool(writer, "snapshot", false);
    mpk_close_map(writer, &map);
}

void analysis_encode_layer(const struct analysis_layer *layer, struct mpk_writer *writer)
{
    const struct layer_numbers *numbers = &layer->numbers;
    struct mpk_open map = mpk_open(writer, NULL);
    struct layer_id id = layer->layer.id;
    mpk_pair_str(writer, "stack", layer->stack_known ? stack_name(id.stack) : NULL);
    mpk_pair_u64_or_nil(writer, "layer", layer->layer_known, id.layer);
    mpk_pair_str(writer, "site", layer->site_known ? site_name(id.site) : NULL);
    part_layer_state(writer, &layer->layer);
    result_live_put_numbers(writer, numbers);
    part_similarity(writer, NULL, &numbers->similarity, numbers->heads);
    part_weights(writer, numbers->weights);
    mpk_close_map(writer, &map);
}

/* An alert: what a rule says about a head, a layer or a run. */

const char *alert_state_name(enum alert_state state)
{
    static const char *const names[] = {[ALERT_FIRING] = "firing",
                                        [ALERT_RESOLVED] = "resolved",
                                        [ALERT_FIRING_AT_END] = "firing_at_end"};
    return names[state];
}

const char *alert_severity_name(enum alert_severity severity)
{
    static const char *const names[] = {
        [ALERT_INFO] = "info", [ALERT_WARNING] = "warning", [ALERT_CRITICAL] = "critical"};
    return names[severity];
}

void alert_encode(const struct alert_result *alert, struct mpk_writer *writer)
{
    struct mpk_open map = mpk_open(writer, NULL);
    part_common(writer, "alert", &alert->common);
    mpk_pair_str(writer, "rule", alert->rule);
    mpk_pair_str(writer, "severity", alert_severity_name(alert->severity));
    mpk_pair_str(writer, "state", alert_state_name(alert->state));
    mpk_pair_str(writer, "metric", alert->metric);
    /* Nil where the alert is about something larger. */
    static const char *const keys[] = {"stack", "layer", "site"};
    if (alert->has_layer) {
        header_put_layer(writer, alert->layer);
        part_module(writer, alert->module);
    }
    for (int i = 0; i < 3 && !alert->has_layer; i++) {
        mpk_pair_nil(writer, keys[i]);
    }
    mpk_pair_u64_or_nil(writer, "head", alert->head >= 0, (uint64_t)alert->head);
    mpk_pair_f64(writer, "value", alert->value);
    mpk_pair_f64(writer, "bound", alert->bound);
    mpk_pair_array(writer, "since", 2);
    if (alert->since_after == ALERT_FROM_START) {
        mpk_put_nil(writer);
    } else {
        mpk_put_u64(writer, alert->since_after);
    }
    mpk_put_u64(writer, alert->since_step);
    mpk_pair_str(writer, "message", alert->message);
    if (alert->why) {
        mpk_pair_str(writer, "why", alert->why);
    }
    if (alert->advice) {
        mpk_pair_str(writer, "advice", alert->advice);
    }
    mpk_pair_bool(writer, "snapshot", false);
    mpk_close_map(writer, &map);
}

/* The statistics of a layer's numbers over a window. */

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

static void put_stat(struct mpk_writer *writer, const struct result_stat *stat)
{
    mpk_put_map(writer, STAT_FIELDS + 1);
    for (unsigned f = 0; f < STAT_FIELDS; f++) {
        mpk_pair_f64(writer, stat_fields[f].name, part_number(stat, stat_fields[f].offset));
    }
    mpk_pair_u64(writer, "count", stat->count);
}

/* One array over the heads per statistic. */
static void put_head_stats(struct mpk_writer *writer, const struct result_stat *stats,
                           uint32_t heads)
{
    mpk_put_map(writer, STAT_FIELDS + 1);
    for (unsigned f = 0; f < STAT_FIELDS; f++) {
        part_column(writer, stat_fields[f].name, (const char *)stats + stat_fields[f].offset,
                    sizeof *stats, heads);
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
            mpk_put_f64(writer, part_number(&row[i], stat_fields[field].offset));
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
        part_column(writer, drift_fields[f].name, (const char *)drift + drift_fields[f].offset,
                    sizeof *drift, heads);
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

const char *job_state_name(enum job_state state)
{
    static const char *const names[] = {[JOB_ACTIVE] = "active",
                                        [JOB_IDLE] = "idle",
                                        [JOB_ENDED] = "ended",
                                        [JOB_FAILED] = "failed",
                                        [JOB_NO_NEWS] = "no_news"};
    return names[state];
}

void job_state_put(enum job_state state, double silent_s, const struct failure *failure,
                   struct mpk_writer *writer)
{
    mpk_pair_str(writer, "state", job_state_name(state));
    if (state == JOB_NO_NEWS) {
        mpk_pair_f64(writer, "silent_s", silent_s);
    } else if (state == JOB_FAILED) {
        mpk_put_str(writer, "failure");
        failure_put(failure, writer);
    }
}

void result_set_snapshot(void *buf, size_t len, bool snapshot)
{
    ((unsigned char *)buf)[len - 1] = snapshot ? 0xc3 : 0xc2;
}

void job_encode(const struct job_result *job, struct mpk_writer *writer)
{
    struct mpk_open map = mpk_open(writer, NULL);
    part_common(writer, "job", &job->common);
    job_state_put(job->state, job->silent_s, job->failure, writer);
    mpk_pair_u64(writer, "heard_ns", job->heard_ns);
    mpk_pair_u64(writer, "world", job->world);
    mpk_pair_u64(writer, "ranks", job->ranks);
    uint32_t count = job->layer_count;
    mpk_pair_array(writer, "layers", count);
    for (uint32_t i = 0; i < count; i++) {
        struct mpk_open layer = mpk_open(writer, NULL);
        header_put_layer(writer, job->layers[i].id);
        part_module(writer, job->layers[i].module);
        mpk_pair_u64(writer, "heads", job->layers[i].heads);
        mpk_close_map(writer, &layer);
    }
    mpk_pair_u64(writer, "received", job->received);
    mpk_pair_u64(writer, "processed", job->processed);
    mpk_pair_u64(writer, "lost", job->lost);
    part_dropped(writer, job->dropped, job->dropped_count);
    mpk_pair_bool(writer, "snapshot", false);
    mpk_close_map(writer, &map);
}

void log_encode(const struct log_result *log, struct mpk_writer *writer)
{
    struct mpk_open map = mpk_open(writer, NULL);
    part_common(writer, "log", &log->common);
    mpk_put_str(writer, "values");
    named_put(log->values, writer);
    mpk_pair_bool(writer, "snapshot", false);
    mpk_close_map(writer, &map);
}
