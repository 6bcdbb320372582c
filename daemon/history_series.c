/* SPDX-License-Identifier: MIT */
/* history: one metric of a layer over its windows, of one head or of all.
 *
 * The numbers are collected as [head][statistic][window], of the statistics that are asked for
 * only, then written column by column. What a window does not have is NaN, with a count of 0. An
 * answer has at most VALUES_MAX values, so that a client's limits on elements and bytes hold;
 * `more` says that windows were left out. */
#include "history_number.h"
#include "history_windows.h"

#include <endian.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define VALUES_MAX (3u << 20)

/* Columns of `windows` in the answer. */
enum { WINDOW_COLUMNS = 6 };

struct series {
    struct found_run run;
    struct found_layer layer;
    struct found_track track;
    const char *metric;
    int number;          /* history_number.h; -1 = only a newer attnd knows it */
    uint32_t head_first; /* heads in the answer */
    uint32_t heads;
    bool of_layer; /* one value for the layer: `heads` is 1 */
    bool any;      /* there is a value */
    struct window_rows rows;
    uint32_t statistics;       /* asked for */
    int slot[STATISTIC_COUNT]; /* of them: place among those; else -1 */
    double *value;             /* [heads][statistics][rows.count] */
};

static const char *const default_metrics[] = {"entropy_normalized", "max_logit", "spectral_norm",
                                              "qk_spectral_norm"};

/* Numbers */

/* Of a statistic that is asked for. */
static double *column(struct series *series, uint32_t head, int statistic)
{
    size_t at = (size_t)head * series->statistics + (size_t)series->slot[statistic];
    return series->value + at * series->rows.count;
}

static double number_in(const struct result_stat *stat, int statistic)
{
    static const size_t offset[STATISTIC_COUNT] = {
        [STATISTIC_MEAN] = offsetof(struct result_stat, mean),
        [STATISTIC_STD] = offsetof(struct result_stat, std),
        [STATISTIC_MIN] = offsetof(struct result_stat, min),
        [STATISTIC_MAX] = offsetof(struct result_stat, max),
        [STATISTIC_P50] = offsetof(struct result_stat, p50),
        [STATISTIC_P90] = offsetof(struct result_stat, p90),
        [STATISTIC_P99] = offsetof(struct result_stat, p99),
        [STATISTIC_LAST] = offsetof(struct result_stat, last),
    };
    double number;
    if (statistic == STATISTIC_NUMBER)
        return (double)stat->count;
    memcpy(&number, (const char *)stat + offset[statistic], sizeof number);
    return number;
}

/* The numbers of rows from..to, stats[i] being that of row from + i. */
static void set_stats(struct series *series, uint32_t head, uint32_t from, uint32_t to,
                      const struct result_stat *stats)
{
    for (int s = 0; s < STATISTIC_COUNT; s++) {
        double *out = series->slot[s] >= 0 ? column(series, head, s) : NULL;
        for (uint32_t i = from; out && i < to; i++)
            out[i] = number_in(&stats[i - from], s);
    }
    for (uint32_t i = from; i < to && !series->any; i++)
        series->any = stats[i - from].count > 0 || !isnan(stats[i - from].last);
}

static int reset_values(struct series *series)
{
    size_t count = (size_t)series->heads * series->statistics * series->rows.count;
    free(series->value);
    series->value = malloc((count + !count) * sizeof *series->value);
    if (!series->value)
        return ERR_MEMORY;
    for (size_t i = 0; i < count; i++)
        series->value[i] = NAN;
    for (uint32_t head = 0; head < series->heads && series->slot[STATISTIC_NUMBER] >= 0; head++)
        memset(column(series, head, STATISTIC_NUMBER), 0,
               series->rows.count * sizeof *series->value);
    series->any = false;
    return 0;
}

/* The numbers of one chunk's row of `series`, for the rows of the answer from..to. */
static int add_chunk(struct series *series, sqlite3_stmt *statement, uint32_t from, uint32_t to)
{
    struct result_stat stats[SERIES_WINDOWS_MAX], shown[SERIES_WINDOWS_MAX];
    const struct window_row *row = &series->rows.row[from];
    int head = sqlite3_column_int(statement, 0);
    const void *data = sqlite3_column_blob(statement, 1);
    int code =
        series_decode(data, (size_t)sqlite3_column_bytes(statement, 1), row->chunk_count, stats);
    uint32_t at = head < 0 ? 0 : (uint32_t)head - series->head_first;
    if (code || at >= series->heads)
        return code;
    for (uint32_t i = from; i < to; i++, row++)
        shown[i - from] = stats[row->index];
    set_stats(series, at, from, to, shown);
    return 0;
}

/* Rows that follow one another and are in the same chunk. */
static uint32_t chunk_end(const struct window_rows *rows, uint32_t from)
{
    uint32_t to = from + 1;
    while (to < rows->count && to - from < SERIES_WINDOWS_MAX &&
           rows->row[to].chunk_id == rows->row[from].chunk_id)
        to++;
    return to;
}

static int read_chunk(struct query *query, struct series *series, sqlite3_stmt *statement,
                      uint32_t from, uint32_t to)
{
    int code = 0;
    sqlite3_reset(statement);
    sqlite3_bind_int64(statement, 1, (sqlite3_int64)series->rows.row[from].chunk_id);
    while (!code && (code = query_next(query, statement)) == 1)
        code = add_chunk(series, statement, from, to);
    return code;
}

static int read_chunks(struct query *query, struct series *series)
{
    sqlite3_stmt *statement;
    int first = series->of_layer ? -1 : (int)series->head_first;
    int code = query_open(query,
                          "SELECT head, data FROM series WHERE chunk_id = ?1 AND metric_id ="
                          " (SELECT metric_id FROM metrics WHERE name = ?2)"
                          " AND head BETWEEN ?3 AND ?4",
                          &statement, "is", (uint64_t)0, series->metric);
    if (!code) {
        sqlite3_bind_int(statement, 3, first);
        sqlite3_bind_int(statement, 4, first + (int)series->heads - 1);
    }
    for (uint32_t from = 0, to; !code && from < series->rows.count; from = to) {
        to = series->rows.row[from].chunk_id ? chunk_end(&series->rows, from) : from + 1;
        if (series->rows.row[from].chunk_id)
            code = read_chunk(query, series, statement, from, to);
        if (!code)
            code = query_check(query);
    }
    sqlite3_finalize(statement);
    return code;
}

static int add_state(struct series *series, const struct layer_state *state, uint32_t row)
{
    int code = 0;
    if (series->number < 0 || !number_in_state(state, series->number))
        return 0;
    for (uint32_t i = 0; !code && i < series->heads && series->head_first + i < state->heads; i++) {
        struct result_stat stat;
        code = number_stat(state, series->number, series->head_first + i, &stat);
        if (!code)
            set_stats(series, i, row, row + 1, &stat);
    }
    return code;
}

static int read_state(struct query *query, struct series *series, sqlite3_stmt *statement,
                      uint32_t row)
{
    struct layer_state *state = NULL;
    sqlite3_reset(statement);
    sqlite3_bind_int64(statement, 1, (sqlite3_int64)series->rows.row[row].window_id);
    int code = query_next(query, statement);
    if (code == 1)
        code = state_read(statement, 0, &state);
    if (!code && state)
        code = add_state(series, state, row);
    layer_state_free(&state);
    return code ? code : query_check(query);
}

static int read_states(struct query *query, struct series *series)
{
    sqlite3_stmt *statement;
    int code = query_open(query, "SELECT bytes, data FROM states WHERE window_id = ?1", &statement,
                          "i", (uint64_t)0);
    for (uint32_t row = 0; !code && row < series->rows.count; row++)
        if (!series->rows.row[row].chunk_id)
            code = read_state(query, series, statement, row);
    sqlite3_finalize(statement);
    return code;
}

/* What is asked for */

static int choose_heads(struct query *query, struct series *series)
{
    bool asked = query->params.given & PARAM_HEAD;
    series->of_layer = series->number >= 0 && number_is_of_layer(series->number);
    if (series->of_layer && asked)
        return query_fail(query, ERR_ARGUMENT, "%s is a number of the layer: head does not apply",
                          series->metric);
    if (asked && query->params.head >= series->layer.heads)
        return query_fail(query, ERR_NO_HISTORY, "the layer has only heads 0 to %u",
                          (unsigned)(series->layer.heads - 1));
    series->head_first = asked ? (uint32_t)query->params.head : 0;
    series->heads = asked || series->of_layer ? 1 : series->layer.heads;
    return 0;
}

/* Windows that an answer may have: what was asked for, unless that is too many values. */
static uint32_t window_limit(const struct query *query, const struct series *series)
{
    uint64_t per_window = WINDOW_COLUMNS + (uint64_t)series->heads * series->statistics;
    uint64_t most = VALUES_MAX / per_window;
    most = most > 0 ? most : 1;
    return (uint32_t)(query->params.limit < most ? query->params.limit : most);
}

/* The windows and a metric's numbers in them. */
static int read_metric(struct query *query, struct series *series, const char *metric)
{
    series->metric = metric;
    series->number = number_find(metric);
    int code = choose_heads(query, series);
    windows_free(&series->rows);
    if (!code)
        code = windows_read(query, &series->layer, &series->track, window_limit(query, series),
                            &series->rows);
    if (!code)
        code = reset_values(series);
    if (!code)
        code = read_chunks(query, series);
    return code ? code : read_states(query, series);
}

/* Says which numbers there are. */
static int refuse_metric(struct query *query, const struct series *series)
{
    bool has[NUMBER_COUNT];
    char layer[LAYER_TEXT_MAX], name[NUMBER_NAME_MAX];
    int code = windows_numbers(query, &series->layer, &series->track, has);
    if (code)
        return code;
    layer_text(&series->layer, layer);
    query_fail(query, ERR_NO_HISTORY, "%s has no '%s' in these windows; it has", layer,
               series->metric);
    for (int i = 0; i < NUMBER_COUNT; i++) {
        size_t used = strlen(query->detail);
        number_name(i, name);
        if (has[i] && used + strlen(name) + 8 < HISTORY_DETAIL_MAX)
            snprintf(query->detail + used, HISTORY_DETAIL_MAX - used, " %s", name);
    }
    return ERR_NO_HISTORY;
}

static int refuse_range(struct query *query, const struct series *series)
{
    char layer[LAYER_TEXT_MAX], track[TRACK_TEXT_MAX];
    layer_text(&series->layer, layer);
    track_text(&series->track.track, track);
    return query_fail(query, ERR_NO_HISTORY, "%s has no window of %s in this range", layer, track);
}

static void choose_statistics(const struct query *query, struct series *series)
{
    series->statistics = 0;
    for (int i = 0; i < STATISTIC_COUNT; i++)
        series->slot[i] = query->params.statistics & 1u << i ? (int)series->statistics++ : -1;
}

static int read_series(struct query *query, struct series *series)
{
    bool asked = query->params.given & PARAM_METRIC;
    int count = asked ? 1 : (int)(sizeof default_metrics / sizeof default_metrics[0]);
    int code = 0;
    choose_statistics(query, series);
    for (int i = 0; !code && i < count && !series->any; i++)
        code = read_metric(query, series, asked ? query->params.metric : default_metrics[i]);
    if (!code && series->rows.count == 0)
        return refuse_range(query, series);
    return code || series->any ? code : refuse_metric(query, series);
}

/* The answer */

/* 64-bit numbers of either type, little-endian; in place. */
static void put_packed(struct query *query, void *numbers, uint32_t count)
{
    char *at = numbers;
    for (uint32_t i = 0; i < count; i++, at += sizeof(uint64_t)) {
        uint64_t bits;
        memcpy(&bits, at, sizeof bits);
        bits = htole64(bits);
        memcpy(at, &bits, sizeof bits);
    }
    mpk_put_bin(query->result, numbers, (size_t)count * sizeof(uint64_t));
}

static uint64_t window_number(const struct series_window *window, int which)
{
    const uint64_t numbers[] = {window->first, window->last, window->epoch, window->step,
                                window->time_ns};
    return numbers[which];
}

static int put_window_column(struct query *query, const struct series *series, int which)
{
    uint32_t count = series->rows.count;
    uint64_t *numbers = malloc((count + !count) * sizeof *numbers);
    if (!numbers)
        return ERR_MEMORY;
    for (uint32_t i = 0; i < count; i++)
        numbers[i] = window_number(&series->rows.row[i].window, which);
    if (query->params.packed) {
        put_packed(query, numbers, count);
    } else {
        mpk_put_array(query->result, count);
        for (uint32_t i = 0; i < count; i++)
            mpk_put_u64(query->result, numbers[i]);
    }
    free(numbers);
    return 0;
}

static void put_partial(struct query *query, const struct series *series)
{
    mpk_put_array(query->result, series->rows.count);
    for (uint32_t i = 0; i < series->rows.count; i++)
        mpk_put_bool(query->result, series->rows.row[i].window.partial);
}

static int put_windows(struct query *query, const struct series *series)
{
    static const char *const names[] = {"first", "last", "epoch", "step", "time_ns"};
    int code = 0;
    mpk_put_str(query->result, "windows");
    mpk_put_map(query->result, WINDOW_COLUMNS);
    for (int i = 0; !code && i < WINDOW_COLUMNS - 1; i++) {
        mpk_put_str(query->result, names[i]);
        code = put_window_column(query, series, i);
    }
    mpk_put_str(query->result, "partial");
    put_partial(query, series);
    return code;
}

/* As mpk_put_f64 each, but in blocks: a long history has a million of them. */
static void put_reals(struct query *query, const double *numbers, uint32_t count)
{
    enum { BLOCK = 256 };
    uint8_t bytes[9 * BLOCK];
    for (uint32_t from = 0, to; from < count; from = to) {
        uint8_t *at = bytes;
        to = count - from < BLOCK ? count : from + BLOCK;
        for (uint32_t i = from; i < to; i++) {
            uint64_t bits;
            memcpy(&bits, &numbers[i], sizeof bits);
            bits = htobe64(bits);
            *at++ = isfinite(numbers[i]) ? 0xcb : 0xc0; /* float 64, nil */
            memcpy(at, &bits, sizeof bits);
            at += isfinite(numbers[i]) ? sizeof bits : 0;
        }
        mpk_put_raw(query->result, bytes, (size_t)(at - bytes));
    }
}

static void put_column(struct query *query, double *numbers, uint32_t count, int statistic)
{
    if (query->params.packed) {
        put_packed(query, numbers, count);
        return;
    }
    mpk_put_array(query->result, count);
    if (statistic != STATISTIC_NUMBER)
        put_reals(query, numbers, count);
    for (uint32_t i = 0; statistic == STATISTIC_NUMBER && i < count; i++)
        mpk_put_u64(query->result, (uint64_t)numbers[i]);
}

static void put_statistic(struct query *query, struct series *series, int statistic)
{
    bool one = series->of_layer || (query->params.given & PARAM_HEAD);
    mpk_put_str(query->result, statistic_name[statistic]);
    if (!one)
        mpk_put_array(query->result, series->heads);
    for (uint32_t head = 0; head < series->heads; head++)
        put_column(query, column(series, head, statistic), series->rows.count, statistic);
}

static void put_values(struct query *query, struct series *series)
{
    mpk_put_str(query->result, "values");
    mpk_put_map(query->result, series->statistics);
    for (int i = 0; i < STATISTIC_COUNT; i++)
        if (series->slot[i] >= 0)
            put_statistic(query, series, i);
}

static void put_heads(struct query *query, const struct series *series)
{
    mpk_put_str(query->result, "heads");
    mpk_put_array(query->result, series->heads);
    for (uint32_t i = 0; i < series->heads; i++) {
        mpk_put_map(query->result, 4);
        put_layer(query, &series->layer.layer);
        mpk_put_str(query->result, "head");
        if (series->of_layer)
            mpk_put_nil(query->result);
        else
            mpk_put_u64(query->result, series->head_first + i);
    }
}

static int put_series(struct query *query, struct series *series)
{
    mpk_put_map(query->result, 10);
    put_run(query, &series->run);
    put_text(query, "metric", series->metric);
    put_track(query, &series->track);
    put_heads(query, series);
    mpk_put_str(query->result, "more");
    mpk_put_bool(query->result, series->rows.more);
    int code = put_windows(query, series);
    put_values(query, series);
    return code;
}

int history_series(struct query *query)
{
    struct series series = {.heads = 0};
    int code = find_run(query, query->params.job, query->params.run, &series.run);
    if (!code)
        code = find_layer(query, &series.run, &series.layer);
    if (!code)
        code = find_track(query, &series.layer, &series.track);
    if (!code)
        code = read_series(query, &series);
    if (!code)
        code = put_series(query, &series);
    windows_free(&series.rows);
    free(series.value);
    return code;
}
