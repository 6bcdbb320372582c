/* SPDX-License-Identifier: MIT */
/* Keys are written in PROTOCOL.md's order; `snapshot` is last (see result.h). */
#include "result.h"

#include <math.h>

const char *window_unit_name(enum window_unit unit)
{
    static const char *const names[] = {
        [WINDOW_EPOCH] = "epoch", [WINDOW_STEP] = "step", [WINDOW_SECOND] = "second"};

    return names[unit];
}

const char *job_state_name(enum job_state state)
{
    static const char *const names[] = {
        [JOB_ACTIVE] = "active", [JOB_IDLE] = "idle", [JOB_ENDED] = "ended"};

    return names[state];
}

void run_hex(const uint8_t run[RUN_BYTES], char ret_hex[2 * RUN_BYTES + 1])
{
    static const char digits[] = "0123456789abcdef";

    for (unsigned i = 0; i < RUN_BYTES; i++) {
        ret_hex[2 * i] = digits[run[i] >> 4];
        ret_hex[2 * i + 1] = digits[run[i] & 15];
    }
    ret_hex[2 * RUN_BYTES] = '\0';
}

void result_set_snapshot(void *buf, size_t len, bool snapshot)
{
    ((unsigned char *)buf)[len - 1] = snapshot ? 0xc3 : 0xc2;
}

static void put_text(struct mpk_writer *writer, const char *key, const char *text)
{
    mpk_put_str(writer, key);
    mpk_put_str(writer, text);
}

static void put_number(struct mpk_writer *writer, const char *key, uint64_t number)
{
    mpk_put_str(writer, key);
    mpk_put_u64(writer, number);
}

static void put_flag(struct mpk_writer *writer, const char *key, bool flag)
{
    mpk_put_str(writer, key);
    mpk_put_bool(writer, flag);
}

static void put_real(struct mpk_writer *writer, const char *key, double number)
{
    mpk_put_str(writer, key);
    mpk_put_f64(writer, number);
}

enum { COMMON_PAIRS = 7, LAYER_ID_PAIRS = 3, LAYER_PAIRS = LAYER_ID_PAIRS + 6 };

static void put_common(struct mpk_writer *writer, const char *kind,
                       const struct result_common *common)
{
    char run[2 * RUN_BYTES + 1];

    run_hex(common->run, run);
    put_number(writer, "v", PROTO_VERSION);
    put_text(writer, "kind", kind);
    put_text(writer, "job", common->job);
    put_text(writer, "run", run);
    put_number(writer, "epoch", common->epoch);
    put_number(writer, "step", common->step);
    put_number(writer, "time_ns", common->time_ns);
}

static void put_layer_id(struct mpk_writer *writer, struct layer_id id)
{
    put_text(writer, "stack", stack_name(id.stack));
    put_number(writer, "layer", id.layer);
    put_text(writer, "site", site_name(id.site));
}

static void put_layer(struct mpk_writer *writer, const struct result_layer *layer)
{
    put_layer_id(writer, layer->id);
    put_text(writer, "tier", message_type_name(MESSAGE_ATTENTION));
    mpk_put_str(writer, "shape");
    mpk_put_array(writer, 4);
    for (unsigned i = 0; i < 4; i++)
        mpk_put_u64(writer, layer->shape[i]);
    put_flag(writer, "causal", layer->causal);
    put_number(writer, "rows", layer->rows);
    put_number(writer, "invalid_rows", layer->invalid_rows);
    put_real(writer, "row_sum_error", layer->row_sum_error);
}

static void put_pairs(struct mpk_writer *writer, const struct pair *pairs, uint32_t count)
{
    if (!pairs)
        return;
    mpk_put_str(writer, "top_pairs");
    mpk_put_array(writer, count);
    for (uint32_t i = 0; i < count; i++) {
        mpk_put_map(writer, 3);
        put_number(writer, "query", pairs[i].query);
        put_number(writer, "key", pairs[i].key);
        put_real(writer, "weight", pairs[i].weight);
    }
}

static void put_dropped(struct mpk_writer *writer, const struct reason_count *dropped,
                        uint32_t count)
{
    mpk_put_str(writer, "dropped");
    mpk_put_map(writer, count);
    for (uint32_t i = 0; i < count; i++)
        put_number(writer, dropped[i].reason, dropped[i].count);
}

/* Whether a metric is listed under `spectrum`; all others are under `heads`. */
static bool in_spectrum(unsigned metric)
{
    return metric_info[metric].group == METRIC_GROUP_SPECTRUM;
}

/* ---- live ---- */

static uint32_t count_values(const struct live_result *live, bool spectrum)
{
    uint32_t count = 0;

    for (unsigned i = 0; i < METRIC_COUNT; i++)
        count += live->value[i] && in_spectrum(i) == spectrum;
    return count;
}

static void put_values(struct mpk_writer *writer, const struct live_result *live, bool spectrum)
{
    for (unsigned i = 0; i < METRIC_COUNT; i++) {
        if (!live->value[i] || in_spectrum(i) != spectrum)
            continue;
        mpk_put_str(writer, metric_info[i].name);
        mpk_put_array(writer, live->heads);
        for (uint32_t h = 0; h < live->heads; h++)
            mpk_put_f64(writer, live->value[i][h]);
    }
}

static void put_live_singular_values(struct mpk_writer *writer, const struct live_result *live)
{
    if (!live->singular_values)
        return;
    mpk_put_str(writer, "singular_values");
    mpk_put_array(writer, live->heads);
    for (uint32_t h = 0; h < live->heads; h++) {
        const double *values = live->singular_values + (size_t)h * SINGULAR_VALUES_MAX;
        uint32_t count = 0;

        while (count < SINGULAR_VALUES_MAX && !isnan(values[count]))
            count++;
        mpk_put_array(writer, count);
        for (uint32_t i = 0; i < count; i++)
            mpk_put_f64(writer, values[i]);
    }
}

static void put_live_aggregate(struct mpk_writer *writer, const struct live_result *live)
{
    if (!live->has_aggregate)
        return;
    mpk_put_str(writer, "aggregate");
    mpk_put_map(writer, AGGREGATE_COUNT);
    for (unsigned a = 0; a < AGGREGATE_COUNT; a++) {
        mpk_put_str(writer, aggregate_name[a]);
        mpk_put_map(writer, MAP_STAT_COUNT);
        for (unsigned s = 0; s < MAP_STAT_COUNT; s++)
            put_real(writer, map_stat_name[s], live->aggregate[a][s]);
    }
}

static void put_live_spectrum(struct mpk_writer *writer, const struct live_result *live,
                              uint32_t pairs)
{
    if (pairs == 0)
        return;
    mpk_put_str(writer, "spectrum");
    mpk_put_map(writer, pairs);
    put_values(writer, live, true);
    put_live_singular_values(writer, live);
}

void live_encode(const struct live_result *live, struct mpk_writer *writer)
{
    uint32_t spectrum = count_values(live, true) + (live->singular_values != NULL);

    /* besides: rank, heads, snapshot */
    mpk_put_map(writer, COMMON_PAIRS + LAYER_PAIRS + 3 + (uint32_t)live->has_aggregate +
                            (spectrum > 0) + (live->pairs != NULL));
    put_common(writer, "live", &live->common);
    put_layer(writer, &live->layer);
    put_number(writer, "rank", live->rank);
    mpk_put_str(writer, "heads");
    mpk_put_map(writer, count_values(live, false));
    put_values(writer, live, false);
    put_live_aggregate(writer, live);
    put_live_spectrum(writer, live, spectrum);
    put_pairs(writer, live->pairs, live->pair_count);
    put_flag(writer, "snapshot", false);
}

/* ---- summary ---- */

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
    {"p50", offsetof(struct result_stat, p50), true},
    {"p90", offsetof(struct result_stat, p90), true},
    {"p99", offsetof(struct result_stat, p99), true},
    {"last", offsetof(struct result_stat, last), false},
};
enum { STAT_FIELDS = sizeof(stat_fields) / sizeof(stat_fields[0]), STAT_PERCENTILES = 3 };

static double stat_field(const struct result_stat *stat, unsigned field)
{
    return *(const double *)(const void *)((const char *)stat + stat_fields[field].offset);
}

static void put_stat(struct mpk_writer *writer, const struct result_stat *stat)
{
    mpk_put_map(writer, STAT_FIELDS + 1);
    for (unsigned f = 0; f < STAT_FIELDS; f++)
        put_real(writer, stat_fields[f].name, stat_field(stat, f));
    put_number(writer, "count", stat->count);
}

/* One array over the heads per statistic. */
static void put_head_stats(struct mpk_writer *writer, const struct result_stat *stats,
                           uint32_t heads)
{
    mpk_put_map(writer, STAT_FIELDS + 1);
    for (unsigned f = 0; f < STAT_FIELDS; f++) {
        mpk_put_str(writer, stat_fields[f].name);
        mpk_put_array(writer, heads);
        for (uint32_t h = 0; h < heads; h++)
            mpk_put_f64(writer, stat_field(&stats[h], f));
    }
    mpk_put_str(writer, "count");
    mpk_put_array(writer, heads);
    for (uint32_t h = 0; h < heads; h++)
        mpk_put_u64(writer, stats[h].count);
}

static uint32_t count_stats(const struct summary_result *summary, bool spectrum)
{
    uint32_t count = 0;

    for (unsigned i = 0; i < METRIC_COUNT; i++)
        count += summary->stat[i] && in_spectrum(i) == spectrum;
    return count;
}

static void put_stats(struct mpk_writer *writer, const struct summary_result *summary,
                      bool spectrum)
{
    for (unsigned i = 0; i < METRIC_COUNT; i++) {
        if (!summary->stat[i] || in_spectrum(i) != spectrum)
            continue;
        mpk_put_str(writer, metric_info[i].name);
        put_head_stats(writer, summary->stat[i], summary->heads);
    }
}

/* One head's row of singular values, as far as any were seen; `field` STAT_FIELDS is the count. */
static void put_singular_row(struct mpk_writer *writer, const struct result_stat *row,
                             unsigned field)
{
    uint32_t seen = 0;

    while (seen < SINGULAR_VALUES_MAX && row[seen].count > 0)
        seen++;
    mpk_put_array(writer, seen);
    for (uint32_t i = 0; i < seen; i++) {
        if (field == STAT_FIELDS)
            mpk_put_u64(writer, row[i].count);
        else
            mpk_put_f64(writer, stat_field(&row[i], field));
    }
}

static void put_singular_stats(struct mpk_writer *writer, const struct summary_result *summary)
{
    if (!summary->singular_values)
        return;
    mpk_put_str(writer, "singular_values");
    mpk_put_map(writer, STAT_FIELDS + 1 - STAT_PERCENTILES);
    for (unsigned f = 0; f <= STAT_FIELDS; f++) {
        if (f < STAT_FIELDS && stat_fields[f].percentile)
            continue;
        mpk_put_str(writer, f < STAT_FIELDS ? stat_fields[f].name : "count");
        mpk_put_array(writer, summary->heads);
        for (uint32_t h = 0; h < summary->heads; h++)
            put_singular_row(writer, summary->singular_values + (size_t)h * SINGULAR_VALUES_MAX, f);
    }
}

static void put_summary_aggregate(struct mpk_writer *writer, const struct summary_result *summary)
{
    if (!summary->aggregate)
        return;
    mpk_put_str(writer, "aggregate");
    mpk_put_map(writer, AGGREGATE_COUNT);
    for (unsigned a = 0; a < AGGREGATE_COUNT; a++) {
        mpk_put_str(writer, aggregate_name[a]);
        mpk_put_map(writer, MAP_STAT_COUNT);
        for (unsigned s = 0; s < MAP_STAT_COUNT; s++) {
            mpk_put_str(writer, map_stat_name[s]);
            put_stat(writer, &summary->aggregate[a][s]);
        }
    }
}

static void put_summary_spectrum(struct mpk_writer *writer, const struct summary_result *summary,
                                 uint32_t pairs)
{
    if (pairs == 0)
        return;
    mpk_put_str(writer, "spectrum");
    mpk_put_map(writer, pairs);
    put_stats(writer, summary, true);
    put_singular_stats(writer, summary);
}

static void put_window(struct mpk_writer *writer, const struct result_window *window)
{
    mpk_put_str(writer, "window");
    mpk_put_map(writer, 6);
    put_text(writer, "unit", window_unit_name(window->unit));
    put_number(writer, "first", window->first);
    put_number(writer, "last", window->last);
    put_number(writer, "length", window->length);
    put_number(writer, "every", window->every);
    put_flag(writer, "partial", window->partial);
}

void summary_encode(const struct summary_result *summary, struct mpk_writer *writer)
{
    uint32_t spectrum = count_stats(summary, true) + (summary->singular_values != NULL);

    /* besides: window, ranks, messages, lost, dropped, heads, snapshot */
    mpk_put_map(writer, COMMON_PAIRS + LAYER_PAIRS + 7 + (uint32_t)(summary->aggregate != NULL) +
                            (spectrum > 0) + (summary->pairs != NULL));
    put_common(writer, "summary", &summary->common);
    put_layer(writer, &summary->layer);
    put_window(writer, &summary->window);
    put_number(writer, "ranks", summary->ranks);
    put_number(writer, "messages", summary->messages);
    put_number(writer, "lost", summary->lost);
    put_dropped(writer, summary->dropped, summary->dropped_count);
    mpk_put_str(writer, "heads");
    mpk_put_map(writer, count_stats(summary, false));
    put_stats(writer, summary, false);
    put_summary_aggregate(writer, summary);
    put_summary_spectrum(writer, summary, spectrum);
    put_pairs(writer, summary->pairs, summary->pair_count);
    put_flag(writer, "snapshot", false);
}

/* ---- job ---- */

static void put_layers(struct mpk_writer *writer, const struct layer_info *layers, uint32_t count)
{
    mpk_put_str(writer, "layers");
    mpk_put_array(writer, count);
    for (uint32_t i = 0; i < count; i++) {
        mpk_put_map(writer, LAYER_ID_PAIRS + 1);
        put_layer_id(writer, layers[i].id);
        put_number(writer, "heads", layers[i].heads);
    }
}

void job_encode(const struct job_result *job, struct mpk_writer *writer)
{
    /* besides: state, world, ranks, layers, received, processed, lost, dropped, snapshot */
    mpk_put_map(writer, COMMON_PAIRS + 9);
    put_common(writer, "job", &job->common);
    put_text(writer, "state", job_state_name(job->state));
    put_number(writer, "world", job->world);
    put_number(writer, "ranks", job->ranks);
    put_layers(writer, job->layers, job->layer_count);
    put_number(writer, "received", job->received);
    put_number(writer, "processed", job->processed);
    put_number(writer, "lost", job->lost);
    put_dropped(writer, job->dropped, job->dropped_count);
    put_flag(writer, "snapshot", false);
}
